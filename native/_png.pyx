# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, auto_pickle=False, autotestdict=False
"""PNG's rows and its zlib stream: what costs the time of reading and writing a PNG.

Written: rows are filtered by the one of Up, Sub and Paeth whose differences are the smallest, and packed
block by block with Huffman codes of their own; of matches only runs are taken, which after filtering are
nearly all there are. Read: the filters are undone in the place where the rows were inflated.

A pixel's bytes are permuted between PNG's order and OpenCV's before all filtering, or before its undoing, as
filters look at each byte of a pixel alone.

Sources: PNG third edition, 9 (filters) and 12.7 (their choice); RFC 1950 (zlib, Adler-32); RFC 1951, 3.2
(deflate).
"""

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from deflate import crc32

ctypedef fused depth_t:
    uint8_t
    uint16_t

cdef extern from "Python.h":  # bytes that are made larger than they are needed
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *, Py_ssize_t) except NULL
    char *bytes_place "PyBytes_AS_STRING" (PyObject *)
    int resize_bytes "_PyBytes_Resize" (PyObject **, Py_ssize_t) except -1

cdef extern from * nogil:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the bit buffer and the order of a pixel's bytes are those of a little-endian machine"
    #endif

    #define swap32 __builtin_bswap32
    #define swap64 __builtin_bswap64

    /* GCC's vectors, for any machine. Lanes are a pixel's bytes, or those of a pixel in each of two rows. */
    typedef int16_t lanes_t __attribute__((vector_size(16)));
    typedef uint8_t bytes_t __attribute__((vector_size(16)));
    #ifdef __clang__
    #define shuffled(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    #else
    #define shuffled(a, b, ...) __builtin_shuffle(a, b, (bytes_t) {__VA_ARGS__})
    #endif

    static inline bytes_t pixel_at(const uint8_t *place) {
        uint64_t bytes;
        memcpy(&bytes, place, 8);
        typedef uint64_t halves_t __attribute__((vector_size(16)));
        return (bytes_t) (halves_t) {bytes, 0};
    }
    static inline void put_pixel(uint8_t *place, bytes_t bytes) {
        memcpy(place, &bytes, 8);
    }
    static inline bytes_t sum(bytes_t a, bytes_t b) {
        return a + b;
    }
    static inline bytes_t average(bytes_t a, bytes_t b) {
        return (a & b) + ((a ^ b) >> 1);
    }
    static inline lanes_t wide(bytes_t bytes) {
        bytes_t none = {0};
        return (lanes_t) shuffled(bytes, none, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    }
    static inline bytes_t narrow(lanes_t lanes) {
        typedef uint8_t eight_t __attribute__((vector_size(8)));
        bytes_t bytes = {0};
        eight_t low = __builtin_convertvector(lanes, eight_t);
        memcpy(&bytes, &low, 8);
        return bytes;
    }
    static inline lanes_t lesser(lanes_t a, lanes_t b) {
        for (int i = 0; i < 8; i++) a[i] = a[i] < b[i] ? a[i] : b[i];
        return a;
    }
    static inline lanes_t greater(lanes_t a, lanes_t b) {
        for (int i = 0; i < 8; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
        return a;
    }
    /* The bytes behind the differences, from those left (a), above (b) and above left (c).

       That is the lesser of a and b where 3 c - a - b is at least the greater, the greater where it is at
       most the lesser, else c: no distance has to be reckoned. */
    static inline lanes_t paeth(lanes_t difference, lanes_t a, lanes_t b, lanes_t c) {
        lanes_t turn = c + c + c - b - a, low = lesser(a, b), high = greater(a, b);
        lanes_t not_low = high > turn, is_high = turn <= low;
        lanes_t rest = (low & ~not_low) | (c & not_low);
        return (difference + ((high & is_high) | (rest & ~is_high))) & 255;
    }
    /* The low half of `upper` put behind the low half of `lower`. */
    static inline lanes_t beside(lanes_t lower, lanes_t upper) {
        typedef uint64_t halves_t __attribute__((vector_size(16)));
        halves_t both = {((halves_t) lower)[0], ((halves_t) upper)[0]};
        return (lanes_t) both;
    }
    /* The pixels of two rows, of up to 4 bytes, to lanes and back. */
    static inline lanes_t wide_two(const uint8_t *lower, const uint8_t *upper) {
        typedef uint32_t words_t __attribute__((vector_size(16)));
        uint32_t one, other;
        memcpy(&one, lower, 4);
        memcpy(&other, upper, 4);
        return wide((bytes_t) (words_t) {one, other, 0, 0});
    }
    static inline void put_two(uint8_t *lower, uint8_t *upper, lanes_t lanes) {
        typedef uint32_t words_t __attribute__((vector_size(16)));
        words_t both = (words_t) narrow(lanes);
        uint32_t one = both[0], other = both[1];
        memcpy(lower, &one, 4);
        memcpy(upper, &other, 4);
    }
    /* The sum of the bytes' sizes, taken as signed: of 0 to 128 each. */
    static inline int sizes(const uint8_t *row, Py_ssize_t size) {
        typedef int8_t signed_t __attribute__((vector_size(16)));
        typedef uint16_t halves_t __attribute__((vector_size(16)));
        int total = 0;
        Py_ssize_t i = 0;
        while (i + 16 <= size) {
            halves_t sums = {0};
            for (int n = 0; n < 128 && i + 16 <= size; n++, i += 16) {
                signed_t bytes, less;
                memcpy(&bytes, row + i, 16);
                less = bytes < 0;
                halves_t both = (halves_t) ((bytes ^ less) - less);
                sums += (both & 255) + (both >> 8);
            }
            for (int lane = 0; lane < 8; lane++) total += sums[lane];
        }
        for (; i < size; i++) total += row[i] < 128 ? row[i] : 256 - row[i];
        return total;
    }
    static inline lanes_t no_lanes(void) {
        return (lanes_t) {0};
    }
    static inline bytes_t no_bytes(void) {
        return (bytes_t) {0};
    }
    """
    uint32_t swap32(uint32_t)
    uint64_t swap64(uint64_t)
    ctypedef struct bytes_t:
        pass
    ctypedef struct lanes_t:
        pass
    int sizes(const uint8_t *, Py_ssize_t)
    bytes_t no_bytes()
    lanes_t no_lanes()
    bytes_t pixel_at(const uint8_t *)
    void put_pixel(uint8_t *, bytes_t)
    bytes_t sum(bytes_t, bytes_t)
    bytes_t average(bytes_t, bytes_t)
    lanes_t wide(bytes_t)
    bytes_t narrow(lanes_t)
    lanes_t paeth(lanes_t, lanes_t, lanes_t, lanes_t)
    lanes_t beside(lanes_t, lanes_t)
    lanes_t wide_two(const uint8_t *, const uint8_t *)
    void put_two(uint8_t *, uint8_t *, lanes_t)

cdef enum:
    PAD = 16            # bytes before and behind each of our rows: a pixel of zeros, room for wide accesses
    BLOCK = 1 << 17     # bytes that get a Huffman code of their own
    MAX_ROW = 1 << 19   # bytes: 65,535 pixels of the largest kind
    MAX_ROWS = 0x7ff00000  # bytes: packed they fit into a chunk, at the worst
    MAX_STORED = 65535
    LITERALS = 286      # the alphabet of literals and lengths
    END = 256
    LONGEST = 12        # bits of a literal's code: four fit into the buffer with what is left in it
    MIN_RUN = 7         # equal bytes
    STEADY = 8          # rows with the same filter, after which one row in four decides

# The symbol of each length of a match, the base and extra bits of each symbol from 257 on: RFC 1951, 3.2.5
cdef uint8_t LENGTH_EXTRA[29]
cdef uint16_t LENGTH_BASE[29]
cdef uint8_t LENGTH_SYMBOL[259]
cdef int16_t WEIGHTS[2048]
cdef int[3] FILTERS = [2, 1, 4]  # the earlier one is taken where two are as good
# In which order the lengths of the lengths' codes are written: RFC 1951, 3.2.7
cdef uint8_t[19] ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]


cdef void _fill_tables() noexcept:
    cdef int symbol, length, base = 3
    for symbol in range(28):
        LENGTH_EXTRA[symbol] = 0 if symbol < 8 else (symbol - 4) // 4
        LENGTH_BASE[symbol] = base
        for length in range(base, min(base + (1 << LENGTH_EXTRA[symbol]), 258)):
            LENGTH_SYMBOL[length] = symbol
        base += 1 << LENGTH_EXTRA[symbol]
    LENGTH_EXTRA[28], LENGTH_BASE[28], LENGTH_SYMBOL[258] = 0, 258, 28
    for length in range(2048):
        WEIGHTS[length] = 2048 - length


_fill_tables()


# Rows

cdef inline uint32_t load32(const uint8_t *place) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, place, 4)
    return value


cdef inline uint64_t load64(const uint8_t *place) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, place, 8)
    return value


cdef inline void store32(uint8_t *place, uint32_t value) noexcept nogil:
    memcpy(place, &value, 4)


cdef inline void store64(uint8_t *place, uint64_t value) noexcept nogil:
    memcpy(place, &value, 8)


cdef inline uint64_t turned(uint64_t pixel, int size) noexcept nogil:
    """A pixel of 3, 4, 6 or 8 bytes in the other order, PNG's or OpenCV's; what is above its bytes varies."""
    if size == 3:
        return swap32(<uint32_t> pixel) >> 8
    if size == 4:
        return pixel & 0xff00ff00u | (pixel & 255) << 16 | (pixel >> 16) & 255
    pixel = swap64(pixel)
    return pixel >> 16 | pixel << 48


cdef void turn(const uint8_t *source, uint8_t *result, Py_ssize_t width, int size) noexcept nogil:
    """A row's pixels of `size` bytes in the other order. Up to 2 bytes behind the result are written."""
    cdef Py_ssize_t i
    cdef uint64_t pixel = 0
    cdef uint16_t value
    if size == 1:
        memcpy(result, source, width)
    elif size == 2:
        for i in range(width):
            memcpy(&value, source + 2 * i, 2)
            value = value >> 8 | value << 8
            memcpy(result + 2 * i, &value, 2)
    elif size == 3:
        for i in range(width - 1):
            store32(result + 3 * i, <uint32_t> turned(load32(source + 3 * i), 3))
        memcpy(&pixel, source + 3 * (width - 1), 3)
        store32(result + 3 * (width - 1), <uint32_t> turned(pixel, 3))
    elif size == 4:
        for i in range(width):
            store32(result + 4 * i, <uint32_t> turned(load32(source + 4 * i), 4))
    elif size == 6:
        for i in range(width - 1):
            store64(result + 6 * i, turned(load64(source + 6 * i), 6))
        memcpy(&pixel, source + 6 * (width - 1), 6)
        store64(result + 6 * (width - 1), turned(pixel, 6))
    else:
        for i in range(width):
            store64(result + 8 * i, turned(load64(source + 8 * i), 8))


cdef void subtract(
    const uint8_t *row, const uint8_t *other, uint8_t *result, Py_ssize_t size
) noexcept nogil:
    """Each byte less the other row's."""
    cdef Py_ssize_t i
    for i in range(size):
        result[i] = row[i] - other[i]


cdef void subtract_paeth(
    const uint8_t *row, const uint8_t *above, uint8_t *result, Py_ssize_t size, Py_ssize_t pixel
) noexcept nogil:
    """Each byte less Paeth's prediction."""
    cdef Py_ssize_t i
    cdef int16_t a, b, c, turn, low, high
    for i in range(size):
        a, b, c = row[i - pixel], above[i], above[i - pixel]
        low, high, turn = min(a, b), max(a, b), 3 * c - a - b
        result[i] = row[i] - <uint8_t> (high if turn <= low else (low if turn >= high else c))


cdef void subtract_by(
    int kind, const uint8_t *row, const uint8_t *above, uint8_t *result, Py_ssize_t size, int pixel
) noexcept nogil:
    """A row filtered by Sub (1), Up (2) or Paeth (4)."""
    if kind == 4:
        subtract_paeth(row, above, result, size, pixel)
    else:
        subtract(row, above if kind == 2 else row - pixel, result, size)


cdef uint32_t adler(uint32_t before, const uint8_t *data, Py_ssize_t size) noexcept nogil:
    """The Adler-32 of what went before and of the data (RFC 1950, 9)."""
    cdef uint32_t low = before & 0xffff, high = before >> 16
    cdef int32_t plain, weighted
    cdef const int16_t *weights
    cdef Py_ssize_t i, part
    while size > 0:
        part = min(size, 2048)
        weights = WEIGHTS + 2048 - part
        plain = weighted = 0
        for i in range(part):
            plain += data[i]
            weighted += <int16_t> data[i] * weights[i]
        high = (high + <uint32_t> part * low + <uint32_t> weighted) % 65521
        low = (low + <uint32_t> plain) % 65521
        data += part
        size -= part
    return high << 16 | low


# Deflate

cdef struct Token:  # so many bytes as they are, and then so many more like the last of them
    uint32_t literals, repeats


cdef struct Bits:
    uint8_t *place
    uint64_t kept
    unsigned int count


cdef inline void put(Bits *bits, uint64_t value, unsigned int count) noexcept nogil:
    """At most 56 bits."""
    bits.kept |= value << bits.count
    bits.count += count
    store64(bits.place, bits.kept)
    bits.place += bits.count >> 3
    bits.kept >>= bits.count & 56
    bits.count &= 7


cdef Py_ssize_t tokenise(
    const uint8_t *data, Py_ssize_t size, Token *tokens, uint32_t *counts
) noexcept nogil:
    """The data as tokens, at most size / MIN_RUN + 1, and the counts of their literals."""
    cdef Py_ssize_t place = 0, start = 0, first, end, i, number = 0
    cdef uint32_t word
    cdef uint32_t more[3][256]
    memset(more, 0, sizeof(more))
    while True:
        first = end = size
        while place + 4 <= size:
            word = load32(data + place)
            if word == (word << 8 | word >> 24):
                first, end = place, place + 4
                while first > start and data[first - 1] == data[place]:
                    first -= 1
                while end + 8 <= size and load64(data + end) == (<uint64_t> word << 32 | word):
                    end += 8
                while end < size and data[end] == data[place]:
                    end += 1
                place = end
                if end - first >= MIN_RUN:
                    break
                first = end = size
            else:
                place += 4
        tokens[number].literals = min(first + 1, size) - start
        tokens[number].repeats = max(end - first - 1, 0)
        i = start
        start += tokens[number].literals
        number += 1
        while i + 4 <= start:
            word = load32(data + i)
            counts[word & 255] += 1
            more[0][word >> 8 & 255] += 1
            more[1][word >> 16 & 255] += 1
            more[2][word >> 24] += 1
            i += 4
        while i < start:
            counts[data[i]] += 1
            i += 1
        start = end
        if end == size:
            break
    for i in range(256):
        counts[i] += more[0][i] + more[1][i] + more[2][i]
    return number


cdef inline uint32_t piece(uint32_t repeats) noexcept nogil:
    """The length of the next match of so many repeats, at least 3; none leaves fewer than 3 behind."""
    return repeats if repeats <= 258 else (258 if repeats >= 261 else repeats - 3)


cdef void code_lengths(
    const uint32_t *counts, int symbols, int longest, uint8_t *lengths
) noexcept nogil:
    """Huffman's lengths, none longer than that: longer ones are shortened, and others lengthened for them.

    Counts are below 2**22, at least one symbol is counted; a single one gets one bit.
    """
    cdef uint32_t keys[LITERALS]
    cdef uint32_t weights[2 * LITERALS]
    cdef uint16_t parents[2 * LITERALS]
    cdef uint8_t depths[2 * LITERALS]
    cdef int numbers[33]
    cdef int used = 0, i, j, gap, node, leaf = 0, inner, length
    cdef uint32_t key
    cdef int excess
    for i in range(symbols):
        lengths[i] = 0
        if counts[i]:
            keys[used] = counts[i] << 9 | <uint32_t> i
            used += 1
    if used == 1:
        lengths[keys[0] & 511] = 1
        return
    gap = 121
    while gap:
        for i in range(gap, used):
            key, j = keys[i], i
            while j >= gap and keys[j - gap] > key:
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key
        gap //= 3
    for i in range(used):
        weights[i] = keys[i] >> 9
    inner = used
    for node in range(used, 2 * used - 1):
        weights[node] = 0
        for _ in range(2):  # the lighter one of the next leaf and the next inner node
            if leaf < used and (inner >= node or weights[leaf] <= weights[inner]):
                i = leaf
                leaf += 1
            else:
                i = inner
                inner += 1
            weights[node] += weights[i]
            parents[i] = node
    memset(numbers, 0, sizeof(numbers))
    depths[2 * used - 2] = 0
    for i in range(2 * used - 3, -1, -1):
        depths[i] = min(depths[parents[i]] + 1, 32)
        if i < used:
            numbers[min(depths[i], longest)] += 1
    excess = -(1 << longest)  # of Kraft's sum, in units of the longest code
    for length in range(1, longest + 1):
        excess += numbers[length] << longest - length
    while excess > 0:  # a longest code goes beside the next shorter one, one bit below it
        length = longest - 1
        while not numbers[length]:
            length -= 1
        numbers[length] -= 1
        numbers[length + 1] += 2
        numbers[longest] -= 1
        excess -= 1
    i = 0
    for length in range(longest, 0, -1):  # the rarest symbols come first
        for _ in range(numbers[length]):
            lengths[keys[i] & 511] = length
            i += 1


cdef void make_codes(const uint8_t *lengths, int symbols, uint32_t *codes) noexcept nogil:
    """Each symbol's code, its first bit lowest, above 8 bits with its length (RFC 1951, 3.2.2)."""
    cdef uint32_t following[17]
    cdef uint32_t code = 0, turned_code
    cdef int numbers[17]
    cdef int length, symbol, bit
    memset(numbers, 0, sizeof(numbers))
    for symbol in range(symbols):
        numbers[lengths[symbol]] += 1
    numbers[0] = 0
    for length in range(1, 17):
        code = code + numbers[length - 1] << 1
        following[length] = code
    for symbol in range(symbols):
        length = lengths[symbol]
        codes[symbol] = 0
        if length:
            code, turned_code = following[length], 0
            following[length] += 1
            for bit in range(length):
                turned_code |= (code >> bit & 1) << length - 1 - bit
            codes[symbol] = turned_code << 8 | <uint32_t> length


cdef int run_lengths(
    const uint8_t *lengths, int number, uint8_t *symbols, uint8_t *extras
) noexcept nogil:
    """The code lengths with their repeats packed (RFC 1951, 3.2.7): symbols 0 to 18, extra bits' values."""
    cdef int place = 0, made = 0, run, take
    while place < number:
        run = 1
        while place + run < number and lengths[place + run] == lengths[place]:
            run += 1
        if lengths[place] == 0 and run >= 3:
            take = min(run, 138)
            symbols[made] = 18 if take >= 11 else 17
            extras[made] = take - (11 if take >= 11 else 3)
        elif place and lengths[place] == lengths[place - 1] and run >= 3:
            take = min(run, 6)
            symbols[made], extras[made] = 16, take - 3
        else:
            take = 1
            symbols[made], extras[made] = lengths[place], 0
        made += 1
        place += take
    return made


cdef inline unsigned int extra_bits(int symbol) noexcept nogil:
    return 2 if symbol == 16 else 3 if symbol == 17 else 7 if symbol == 18 else 0


cdef void put_block(
    Bits *stream, const uint8_t *data, Py_ssize_t size, bint last, Token *tokens
) noexcept nogil:
    """A block of deflate: Huffman codes of its own, or as it is where those would take no less."""
    cdef uint32_t counts[LITERALS]
    cdef uint32_t codes[LITERALS]
    cdef uint32_t head_counts[19]
    cdef uint32_t head_codes[19]
    cdef uint8_t lengths[LITERALS + 1]
    cdef uint8_t head_lengths[19]
    cdef uint8_t packed[LITERALS + 1]
    cdef uint8_t extras[LITERALS + 1]
    cdef uint32_t repeats, length, word, a, b, c, d
    cdef uint64_t total, pair
    cdef Py_ssize_t number, token, part
    cdef const uint8_t *end
    cdef int symbol, packs, literals = 257, heads = 19
    cdef Bits own = stream[0]  # of which nothing else has the address, so that it stays in registers
    cdef Bits *bits = &own
    memset(counts, 0, sizeof(counts))
    number = tokenise(data, size, tokens, counts)
    counts[END] = 1
    for token in range(number):
        repeats = tokens[token].repeats
        while repeats:
            length = piece(repeats)
            counts[257 + LENGTH_SYMBOL[length]] += 1
            repeats -= length
    code_lengths(counts, LITERALS, LONGEST, lengths)
    total = 3 + 14
    for symbol in range(LITERALS):
        if lengths[symbol]:
            literals = max(literals, symbol + 1)
            total += <uint64_t> counts[symbol] * lengths[symbol]
            if symbol > END:  # with the extra bits, and the one of the distance
                total += <uint64_t> counts[symbol] * (LENGTH_EXTRA[symbol - 257] + 1)
    lengths[literals] = literals > 257  # of the distance 1, the only one
    packs = run_lengths(lengths, literals + 1, packed, extras)
    memset(head_counts, 0, sizeof(head_counts))
    for symbol in range(packs):
        head_counts[packed[symbol]] += 1
    code_lengths(head_counts, 19, 7, head_lengths)
    while heads > 4 and not head_lengths[ORDER[heads - 1]]:
        heads -= 1
    total += 3 * heads
    for symbol in range(19):
        total += head_counts[symbol] * (head_lengths[symbol] + extra_bits(symbol))
    if total + 7 >> 3 >= <uint64_t> (size + 5 * ((size + MAX_STORED - 1) // MAX_STORED)):
        while size > 0:
            part = min(size, MAX_STORED)
            put(bits, last and part == size, 3)
            put(bits, 0, 8 - bits.count & 7)
            store32(bits.place, <uint32_t> part | (<uint32_t> part ^ 0xffff) << 16)
            memcpy(bits.place + 4, data, part)
            bits.place += 4 + part
            bits.kept = 0
            data += part
            size -= part
        stream[0] = own
        return
    make_codes(lengths, literals, codes)
    make_codes(head_lengths, 19, head_codes)
    put(bits, <uint64_t> last | 2 << 1 | (literals - 257) << 3 | (heads - 4) << 13, 17)
    for symbol in range(heads):
        put(bits, head_lengths[ORDER[symbol]], 3)
    for symbol in range(packs):
        put(bits, head_codes[packed[symbol]] >> 8, head_codes[packed[symbol]] & 255)
        put(bits, extras[symbol], extra_bits(packed[symbol]))
    for token in range(number):
        end = data + tokens[token].literals
        while data + 4 <= end:
            word = load32(data)
            a, b, c, d = codes[word & 255], codes[word >> 8 & 255], codes[word >> 16 & 255], codes[word >> 24]
            pair = a >> 8 | <uint64_t> (b >> 8) << (a & 255)
            a += b
            pair |= (c >> 8 | <uint64_t> (d >> 8) << (c & 255)) << (a & 255)
            c += d
            put(bits, pair, (a & 255) + (c & 255))
            data += 4
        while data < end:
            put(bits, codes[data[0]] >> 8, codes[data[0]] & 255)
            data += 1
        repeats = tokens[token].repeats
        data += repeats
        while repeats:
            length = piece(repeats)
            symbol = LENGTH_SYMBOL[length]
            a = codes[257 + symbol]
            put(bits, a >> 8, a & 255)
            put(bits, length - LENGTH_BASE[symbol], LENGTH_EXTRA[symbol] + 1)
            repeats -= length
    put(bits, codes[END] >> 8, codes[END] & 255)
    stream[0] = own


cdef uint8_t *put_rows(
    const uint8_t *pixels, Py_ssize_t stride, Py_ssize_t height, Py_ssize_t width, int pixel,
    uint8_t *result, uint8_t *work
) noexcept nogil:
    """The zlib stream of a picture's rows from `result` on; where it ends."""
    cdef Py_ssize_t size = width * pixel, filled = 0, y
    cdef Token *tokens = <Token *> work
    cdef uint8_t *block = work + (BLOCK + size + 1) // MIN_RUN * sizeof(Token) + 2 * sizeof(Token)
    cdef uint8_t *rows[4]
    cdef uint32_t check = 1
    cdef Bits bits
    cdef int i, least, total, steady = 0, kind = 0, chosen
    for i in range(4):
        rows[i] = block + BLOCK + size + 2 * PAD + i * (size + 2 * PAD)
    memset(rows[0] - PAD, 0, PAD)
    memset(rows[1] - PAD, 0, PAD + size)
    result[0], result[1] = 0x78, 0x01
    bits.place, bits.kept, bits.count = result + 2, 0, 0
    for y in range(height):
        turn(pixels + y * stride, rows[0], width, pixel)
        if steady < STEADY or not y & 3:
            least = chosen = -1
            for i in range(3):
                subtract_by(FILTERS[i], rows[0], rows[1], rows[3], size, pixel)
                total = sizes(rows[3], size)
                if least < 0 or total < least:
                    least, chosen = total, FILTERS[i]
                    rows[2], rows[3] = rows[3], rows[2]
                if not least:
                    break
            steady = steady + 1 if chosen == kind else 0
            kind = chosen
        else:
            subtract_by(kind, rows[0], rows[1], rows[2], size, pixel)
        block[filled] = kind
        memcpy(block + filled + 1, rows[2], size)
        filled += 1 + size
        rows[0], rows[1] = rows[1], rows[0]
        if filled >= BLOCK or y == height - 1:
            check = adler(check, block, filled)
            put_block(&bits, block, filled, y == height - 1, tokens)
            filled = 0
    put(&bits, 0, 8 - bits.count & 7)
    store32(bits.place, swap32(check))
    return bits.place + 4


def write(const depth_t[:, :, :] pixels, bytes head not None):
    """A PNG file: `head`, then the pixels' IDAT, and IEND.

    Args:
        pixels: (h, w, c), uint8 or uint16, c of 1 (gray), 3 (BGR) or 4 (BGRA); each row's pixels are in one
            piece, rows at any distance; a row is of at most MAX_ROW bytes, all are of at most MAX_ROWS, their
            filters' types counted
        head: all up to the pixels' chunk: PNG's signature, the header, metadata

    Raises:
        ValueError: pixels of another shape
        MemoryError: there was no memory for the largest file that can come of them
    """
    cdef Py_ssize_t height = pixels.shape[0], width = pixels.shape[1], channels = pixels.shape[2]
    cdef int pixel = channels * sizeof(depth_t)
    cdef Py_ssize_t row, size, start = len(head) + 8, stride = pixels.strides[0]
    if height < 1 or width < 1 or channels not in (1, 3, 4) or (
            channels > 1 and pixels.strides[2] != sizeof(depth_t)
            or width > 1 and pixels.strides[1] != pixel):
        raise ValueError("no picture, or its rows are not in one piece")
    if width > MAX_ROW // pixel or height > MAX_ROWS // (1 + width * pixel):
        raise ValueError("more than is written")
    row = width * pixel
    size = height * (row + 1)
    size += 6 * (size // MAX_STORED + size // BLOCK + 2) + 2 * PAD  # as it is, in stored blocks
    cdef uint8_t *work = <uint8_t *> malloc(
        ((BLOCK + row + 1) // MIN_RUN + 2) * sizeof(Token) + BLOCK + 5 * (row + 2 * PAD))
    cdef PyObject *file = NULL
    cdef uint8_t *place
    cdef uint8_t *end
    if not work:
        raise MemoryError
    try:
        file = new_bytes(NULL, start + size + 16)
        place = <uint8_t *> bytes_place(file)
        memcpy(place, <const char *> head, start - 8)
        place += start
        with nogil:
            end = put_rows(<const uint8_t *> &pixels[0, 0, 0], stride, height, width, pixel, place, work)
        store32(place - 8, swap32(<uint32_t> (end - place)))
        memcpy(place - 4, b"IDAT", 4)
        check = crc32(PyMemoryView_FromMemory(<char *> place - 4, end - place + 4, 0x100))
        store32(end, swap32(check))
        memcpy(end + 4, b"\0\0\0\0IEND\xae\x42\x60\x82", 12)
        resize_bytes(&file, start + (end - place) + 16)
        return <object> file
    finally:
        Py_XDECREF(file)
        free(work)


# Reading

cdef void add_left(const uint8_t *row, uint8_t *result, Py_ssize_t size, int pixel) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef bytes_t left = no_bytes()
    while i < size:
        left = sum(pixel_at(row + i), left)
        put_pixel(result + i, left)
        i += pixel


cdef void add_above(
    const uint8_t *row, const uint8_t *above, uint8_t *result, Py_ssize_t size
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        result[i] = row[i] + above[i]


cdef void add_average(
    const uint8_t *row, const uint8_t *above, uint8_t *result, Py_ssize_t size, int pixel
) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef bytes_t left = no_bytes()
    while i < size:
        left = sum(pixel_at(row + i), average(left, pixel_at(above + i)))
        put_pixel(result + i, left)
        i += pixel


cdef void add_paeth(
    const uint8_t *row, const uint8_t *above, uint8_t *result, Py_ssize_t size, int pixel
) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef lanes_t a = no_lanes(), c = no_lanes(), b
    while i < size:
        b = wide(pixel_at(above + i))
        a = paeth(wide(pixel_at(row + i)), a, b, c)
        put_pixel(result + i, narrow(a))
        c = b
        i += pixel


cdef void add_paeth_twice(
    const uint8_t *row, const uint8_t *next_row, const uint8_t *above, uint8_t *result, uint8_t *next_result,
    Py_ssize_t size, int pixel
) noexcept nogil:
    """Two rows side by side, the second one pixel behind the first, of pixels of up to 4 bytes.

    It begins a pixel before its row, where there are zeros.
    """
    cdef Py_ssize_t i = 0
    cdef lanes_t a = no_lanes(), c = no_lanes(), b
    while i <= size:
        b = beside(wide(pixel_at(above + i)), a)
        a = paeth(wide_two(row + i, next_row + i - pixel), a, b, c)
        put_two(result + i, next_result + i - pixel, a)
        c = b
        i += pixel


cdef bint take_rows(
    uint8_t *data, Py_ssize_t height, Py_ssize_t width, int pixel, uint8_t *work
) noexcept nogil:
    """The pixels of the filtered rows in data put at its beginning; whether all filters are known."""
    cdef Py_ssize_t size = width * pixel, y = 0, step, last
    cdef uint8_t *rows[5]
    cdef uint8_t *above
    cdef const uint8_t *source = data
    cdef int i, kind
    for i in range(5):
        rows[i] = work + PAD + i * (size + 2 * PAD)
        memset(rows[i] - PAD, 0, PAD)
    memset(rows[4], 0, size)
    while y < height:
        kind, step = source[0], 1
        above = rows[4]
        turn(source + 1, rows[0], width, pixel)
        if kind == 0:
            memcpy(rows[2], rows[0], size)
        elif kind == 1:
            add_left(rows[0], rows[2], size, pixel)
        elif kind == 2:
            add_above(rows[0], above, rows[2], size)
        elif kind == 3:
            add_average(rows[0], above, rows[2], size, pixel)
        elif kind != 4:
            return False
        elif pixel > 4 or y + 1 == height or source[size + 1] != 4:
            add_paeth(rows[0], above, rows[2], size, pixel)
        else:
            step = 2
            turn(source + size + 2, rows[1], width, pixel)
            add_paeth_twice(rows[0], rows[1], above, rows[2], rows[3], size, pixel)
        source += step * (size + 1)
        for i in range(step):
            memcpy(data + (y + i) * size, rows[2 + i], size)
        y += step
        last = 1 + step
        rows[4], rows[last] = rows[last], above
    return True


def read(uint8_t[::1] data not None, Py_ssize_t height, Py_ssize_t width, int pixel):
    """Undo the filters of inflated rows, in place: the pixels, in OpenCV's order, are at the beginning then.

    Args:
        data: for each row the filter's type and its bytes, height * (1 + width * pixel) in all
        pixel: the bytes of a pixel: 1 and 2 (gray), 3 and 6 (RGB), 4 and 8 (RGBA), of 8 and 16 bit

    Returns: whether PNG knows the types of all filters; else the data are of no use

    Raises:
        ValueError: the data are not of that size, or a row is of more than MAX_ROW bytes
        MemoryError: there was no memory for a few rows
    """
    if pixel not in (1, 2, 3, 4, 6, 8) or not 0 < width <= MAX_ROW // pixel or (
            height < 1 or data.shape[0] % height or data.shape[0] // height != 1 + width * pixel):
        raise ValueError("not the rows of a picture that is read")
    cdef uint8_t *work = <uint8_t *> malloc(5 * (width * pixel + 2 * PAD))
    cdef bint known
    if not work:
        raise MemoryError
    with nogil:
        known = take_rows(&data[0], height, width, pixel, work)
    free(work)
    return known


def look_up(
    const uint8_t[::1] indices not None,
    const uint8_t[:, ::1] palette not None,
    uint8_t[:, ::1] result not None,
):
    """Each index's colour.

    Args:
        indices: (n,)
        palette: (256, c), c of 3 or 4
        result: (n, c), written

    Raises:
        ValueError: arrays of other shapes
    """
    cdef Py_ssize_t number = indices.shape[0], size = palette.shape[1], i
    cdef uint32_t colours[256]
    cdef uint8_t *place
    if number < 1 or palette.shape[0] != 256 or size not in (3, 4) or (
            result.shape[0] != number or result.shape[1] != size):
        raise ValueError("not indices, their palette and room for their colours")
    memset(colours, 0, sizeof(colours))
    for i in range(256):
        memcpy(&colours[i], &palette[i, 0], size)
    place = &result[0, 0]
    with nogil:
        for i in range(number - 1):
            store32(place + size * i, colours[indices[i]])
        memcpy(place + size * (number - 1), &colours[indices[number - 1]], size)
