/* The inner loops of _jpeg.pyx: Huffman codes to blocks, and blocks to samples.

In C for what Cython cannot say: vectors of samples, a second build of the same loops for newer processors,
and functions that must be inlined for their bits to stay in registers.

Source: ITU-T T.81: F.2.2 (Huffman decoding), A.3.6 (zigzag), B.1.1.5 (byte stuffing); the integer inverse DCT
is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989, figure 1) with 13 bits of fraction, whose rounding
is libjpeg's. */

#ifndef FALCONIMG_JPEG_H
#define FALCONIMG_JPEG_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define JPEG_INLINE static inline __attribute__((always_inline))
#define JPEG_RARE __attribute__((noinline, cold))

enum {
    JPEG_FAST = 11, /* the most bits of a table for AC */
    JPEG_DC = 10,   /* the bits of a table for DC */
    JPEG_CHUNK = 16384,
    /* more than one MCU takes: 6 blocks of 64 symbols of at most 31 bits, and 8 bytes ahead */
    JPEG_MARGIN = 2048
};

enum {
    JPEG_DONE = 0,
    JPEG_ENDS = -1,
    JPEG_CODE = -2,
    JPEG_BEYOND = -3,
    JPEG_MARKER = -4,
    JPEG_EXTRA = -5,
    JPEG_RANGE = -6
};

/* The codes of one table, T.81 annex C: a window of 16 bits begins with a code of n bits or fewer
   if below limit[n]. */
typedef struct {
    uint32_t limit[17];
    int32_t offset[17];
    uint8_t symbols[256];
} jpeg_codes;

/* What the next bits mean. Of `ac`, for one or two symbols at once, from the lowest bit on:
   6 bits: their length;
   7 bits: how far the index goes: less than 64, or 64 more if the block ends with them, or JPEG_SLOW;
   5 bits: how far to the first value; to the second it is all the way;
   7 bits each: the values, if there is only one as the first.
   JPEG_SLOW: no whole symbol fits; there is a code's length and, in the 8 bits from 18 on, its symbol; or 0.
   Of `skip`, where values do not matter, the first 13 of these bits, for any number of symbols.
   Of `fast` for DC: the length, 0 if it does not fit; above 16 bits the difference. */
typedef struct {
    uint32_t ac[1 << JPEG_FAST];
    uint16_t skip[1 << JPEG_FAST];
    jpeg_codes codes;
} jpeg_ac;

typedef struct {
    uint32_t fast[1 << JPEG_DC];
    jpeg_codes codes;
} jpeg_dc;

enum { JPEG_SLOW = 127 };

#define JPEG_ADVANCE(entry) ((int)((entry) >> 6 & 127))
#define JPEG_FIRST(entry) ((int)((entry) >> 13 & 31))

typedef void (*jpeg_inverter)(
    const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride);

typedef struct {
    int across, down;  /* blocks in an MCU */
    int side;          /* of a block, in samples: 8, 4, 2 or 1 */
    int width, height; /* of the plane, in samples */
    uint8_t *plane;    /* width * height samples */
    const jpeg_ac *ac;
    const jpeg_dc *dc;
    jpeg_inverter inverse; /* from coefficients to side * side samples */
    int32_t predictor;
    uint16_t quant[64]; /* at jpeg_places */
} jpeg_component;

typedef struct {
    const uint8_t *next, *end; /* entropy-coded data as it is in the file */
    /* in the buffer: what is not in `bits` yet, its end, and when to ask for more */
    const uint8_t *at, *stop, *limit;
    uint64_t bits;
    int count;
    int ended;                    /* what follows in the file is a marker, or nothing */
    int fast;                     /* bits that index ac and skip */
    int components, across, down; /* MCUs */
    int interval;                 /* MCUs between restart markers, or 0 */
    int restarts;
    jpeg_component component[3];
    uint8_t buffer[JPEG_CHUNK + JPEG_MARGIN + 64];
} jpeg_scan;

/* Where coefficient k of the zigzag (A.3.6) is kept, so that vectors find two rows side by side: of rows 0
   and 4 their first columns, their second ones and so on, then rows 2 and 6, 1 and 7, 5 and 3. */
static const uint8_t jpeg_places[64] = {0,  2,  32, 16, 34, 4,  6,  36, 18, 49, 1,  51, 20, 38, 8,  10,
                                        40, 22, 53, 3,  48, 17, 50, 5,  55, 24, 42, 12, 14, 44, 26, 57,
                                        7,  52, 19, 33, 35, 21, 54, 9,  59, 28, 46, 30, 61, 11, 56, 23,
                                        37, 39, 25, 58, 13, 63, 15, 60, 27, 41, 43, 29, 62, 31, 45, 47};

static const uint8_t jpeg_rows[8] = {0, 4, 2, 6, 1, 7, 5, 3};

/* ---- tables ---- */

/* The value that the highest `size` bits stand for, F.2.2.1 (EXTEND); size is 1 to 15. */
JPEG_INLINE int jpeg_value(uint64_t bits, int size) {
    int value = (int)(bits >> (64 - size));
    return bits >> 63 ? value : value - (1 << size) + 1;
}

/* The length of the code that the bits begin with, and its symbol; 0 if there is no such code. */
JPEG_INLINE int jpeg_code(const jpeg_codes *codes, uint64_t bits, int *symbol) {
    uint32_t window = (uint32_t)(bits >> 48);
    for (int length = 1; length <= 16; length++)
        if (window < codes->limit[length]) {
            *symbol = codes->symbols[((int32_t)(window >> (16 - length)) - codes->offset[length]) & 255];
            return length;
        }
    return 0;
}

/* From B.2.4.2's counts and symbols; -1 if they are no code, as one of nothing but ones is none (annex C). */
static int jpeg_derive(jpeg_codes *codes, const uint8_t *counts, const uint8_t *symbols, int total) {
    uint32_t code = 0;
    int32_t index = 0;
    memset(codes->symbols, 0, sizeof codes->symbols);
    memcpy(codes->symbols, symbols, (size_t)total);
    for (int length = 1; length <= 16; length++) {
        codes->offset[length] = (int32_t)code - index;
        code += counts[length - 1];
        index += counts[length - 1];
        if (counts[length - 1] && code >= 1u << length)
            return -1;
        codes->limit[length] = code << (16 - length);
        code <<= 1;
    }
    return 0;
}

JPEG_INLINE uint32_t jpeg_entry(int length, int advance, int first, int value, int other) {
    return (uint32_t)length | (uint32_t)advance << 6 | (uint32_t)first << 13 | ((uint32_t)value & 127) << 18 |
           (uint32_t)other << 25;
}

/* The first symbol of a window, by its code's length (above 8 bits) and itself. */
JPEG_INLINE uint32_t jpeg_single(const uint16_t *found, int fast, uint32_t window) {
    int length = found[window] >> 8, symbol = found[window] & 255, run = symbol >> 4, size = symbol & 15;
    if (!length || length + size > fast || size > 6)
        return (uint32_t)length | JPEG_SLOW << 6 | 1 << 13 | (uint32_t)symbol << 18;
    if (!size)
        return run == 15 ? jpeg_entry(length, 16, 16, 0, 0) : jpeg_entry(length, 64, 1, 0, 0);
    return jpeg_entry(
        length + size, run + 1, run + 1, jpeg_value((uint64_t)window << (64 - fast + length), size), 0);
}

/* found[window]: the code that so many bits begin with, its length above 8 bits of symbol; or 0. */
static void jpeg_find(const jpeg_codes *codes, int fast, uint16_t *found) {
    uint32_t window = 0;
    for (int length = 1; length <= fast; length++) {
        uint32_t limit = codes->limit[length] >> (16 - fast);
        for (; window < limit; window++) {
            int32_t index = (int32_t)(window >> (fast - length)) - codes->offset[length];
            found[window] = (uint16_t)(length << 8 | codes->symbols[index & 255]);
        }
    }
    for (; window < 1u << fast; window++)
        found[window] = 0;
}

static void jpeg_ac_values(jpeg_ac *table, int fast, int pairs) {
    uint16_t found[1 << JPEG_FAST];
    jpeg_find(&table->codes, fast, found);
    for (uint32_t window = 0; window < 1u << fast; window++) {
        uint32_t one = jpeg_single(found, fast, window);
        if (pairs && JPEG_ADVANCE(one) < 64) {
            uint32_t two = jpeg_single(found, fast, window << (one & 63) & ((1u << fast) - 1));
            int length = (int)((one & 63) + (two & 63));
            if (JPEG_ADVANCE(two) != JPEG_SLOW && length <= fast)
                one = jpeg_entry(
                    length, JPEG_ADVANCE(one) + JPEG_ADVANCE(two), JPEG_FIRST(one), (int)(one >> 18),
                    (int)(two >> 18));
        }
        table->ac[window] = one;
    }
}

static void jpeg_ac_lengths(jpeg_ac *table, int fast) {
    uint16_t found[1 << JPEG_FAST];
    jpeg_find(&table->codes, fast, found);
    for (uint32_t window = 0; window < 1u << fast; window++) {
        int length = 0, advance = 0, flag = 0;
        while (length < fast && !flag) {
            int code = found[window << length & ((1u << fast) - 1)], size = code & 15, run = code >> 4 & 15;
            int more = (code >> 8) + size;
            if (!code || length + (code >> 8) > fast || length + more > 28 || advance + run > 47)
                break;
            length += more;
            if (!size && run < 15)
                flag = 64;
            advance += flag ? 64 : run + 1;
        }
        table->skip[window] = (uint16_t)(length | (length ? advance : JPEG_SLOW) << 6);
    }
}

static void jpeg_dc_values(jpeg_dc *table) {
    uint16_t found[1 << JPEG_DC];
    jpeg_find(&table->codes, JPEG_DC, found);
    for (uint32_t window = 0; window < 1u << JPEG_DC; window++) {
        int length = found[window] >> 8, size = found[window] & 15;
        int value = length && size && length + size <= JPEG_DC
                        ? jpeg_value((uint64_t)window << (64 - JPEG_DC + length), size)
                        : 0;
        table->fast[window] =
            length && length + size <= JPEG_DC ? (uint32_t)(length + size) | (uint32_t)value << 16 : 0;
    }
}

/* ---- bits ---- */

typedef struct {
    uint64_t bits;     /* the next ones from the highest on; below `count` of them what `at` points to, or 0 */
    const uint8_t *at;
    unsigned count;    /* in its lowest 6 bits, so that no step needs to cut off what is above a length */
} jpeg_bits;

/* At least 56 bits. */
JPEG_INLINE void jpeg_refill(jpeg_bits *b) {
    uint64_t word;
    memcpy(&word, b->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    b->count &= 63;
    b->bits |= word >> b->count;
    b->at += (63 - b->count) >> 3;
    b->count |= 56;
}

/* By the lowest 6 bits of a number. */
JPEG_INLINE void jpeg_drop(jpeg_bits *b, uint32_t length) {
    b->bits <<= length & 63;
    b->count -= length;
}

/* Bytes without their stuffing into the buffer, up to a marker; JPEG_ENDS if more was taken than there is. */
static JPEG_RARE int jpeg_more(jpeg_scan *s) {
    if (!s->ended) {
        uint8_t *to = s->buffer;
        size_t rest = (size_t)(s->stop - s->at);
        memmove(to, s->at, rest);
        s->at = to;
        to += rest;
        while (to < s->buffer + JPEG_CHUNK) {
            size_t room = (size_t)(s->buffer + JPEG_CHUNK - to), left = (size_t)(s->end - s->next);
            size_t span = room < left ? room : left;
            const uint8_t *found = span ? (const uint8_t *)memchr(s->next, 0xFF, span) : NULL;
            if (found)
                span = (size_t)(found - s->next);
            memcpy(to, s->next, span);
            to += span;
            s->next += span;
            if (s->next == s->end || (found && (s->end - s->next < 2 || s->next[1]))) {
                s->ended = 1;
                break;
            }
            if (found) {
                *to++ = 0xFF;
                s->next += 2;
            }
        }
        s->stop = to;
        s->limit = to - JPEG_MARGIN;
        if (s->ended) {
            memset(to, 0, JPEG_MARGIN + 64);
            s->limit = to;
        }
    }
    return s->ended && 8 * (s->at - s->stop) > s->count ? JPEG_ENDS : JPEG_DONE;
}

/* What must be so where entropy-coded data ends: every bit was there, no byte is left, a marker follows. */
static JPEG_RARE int jpeg_close(jpeg_scan *s) {
    int status = jpeg_more(s);
    if (status)
        return status;
    if (8 * (s->stop - s->at) + s->count >= 8)
        return JPEG_EXTRA;
    while (s->end - s->next > 1 && s->next[1] == 0xFF)
        s->next++;
    return s->end - s->next > 1 ? JPEG_DONE : JPEG_ENDS;
}

static void jpeg_open(jpeg_scan *s) {
    s->at = s->stop = s->limit = s->buffer;
    s->bits = 0;
    s->count = s->ended = 0;
    for (int i = 0; i < s->components; i++)
        s->component[i].predictor = 0;
}

static JPEG_RARE int jpeg_restart(jpeg_scan *s) {
    int status = jpeg_close(s);
    if (status)
        return status == JPEG_EXTRA ? JPEG_MARKER : status;
    if (s->next[1] != (0xD0 | (s->restarts++ & 7)))
        return JPEG_MARKER;
    s->next += 2;
    jpeg_open(s);
    return jpeg_more(s);
}

/* ---- blocks ---- */

/* Where a block's samples go; of them only so many are in the plane, which may be none. */
typedef struct {
    uint8_t *out;
    ptrdiff_t stride;
    int wide, high;
} jpeg_place;

typedef struct {
    int16_t coefficients[64]; /* at jpeg_places; zeros but while there is `component` */
    const jpeg_component *component;
    jpeg_place place;
} jpeg_coefficients;

/* A block is transformed when the next one has been read: vectors would have to wait for numbers written one
   by one just before. */
typedef struct {
    jpeg_coefficients two[2];
    int turn;
} jpeg_work;

/* The DC coefficient's difference to the predictor, F.2.2.1; a status. */
JPEG_INLINE int jpeg_read_dc(jpeg_bits *b, const jpeg_dc *dc, int *difference) {
    jpeg_refill(b);
    uint32_t entry = dc->fast[b->bits >> (64 - JPEG_DC)];
    int length = entry & 63;
    *difference = (int32_t)entry >> 16;
    if (!length) {
        int size;
        length = jpeg_code(&dc->codes, b->bits, &size);
        if (!length)
            return JPEG_CODE;
        jpeg_drop(b, (uint32_t)length);
        *difference = size ? jpeg_value(b->bits, size) : 0;
        length = size;
    }
    jpeg_drop(b, (uint32_t)length);
    return JPEG_DONE;
}

/* The AC coefficients, F.2.2.2. The index of the last one, or what is wrong. */
JPEG_INLINE int jpeg_read_ac(jpeg_bits *b, const jpeg_ac *ac, int fast, int16_t *put, int values) {
    int k = 0;
    for (;;) {
        uint32_t entry;
        int to;
        jpeg_refill(b);
        /* as many steps as leave 31 bits for a symbol that is not in the table */
        for (int step = 0; step < (values ? 3 : 2); step++) {
            entry = values ? ac->ac[b->bits >> (64 - fast)] : ac->skip[b->bits >> (64 - fast)];
            to = k + JPEG_ADVANCE(entry);
            if (to > 62)
                goto leave;
            jpeg_drop(b, entry);
            if (values) {
                put[jpeg_places[to]] = (int16_t)((int32_t)entry >> 25);
                put[jpeg_places[k + JPEG_FIRST(entry)]] = (int16_t)((int32_t)(entry << 7) >> 25);
            }
            k = to;
        }
        continue;
    leave:
        if (to >= k + 64 && to <= 62 + 64) { /* the block's end; JPEG_SLOW is farther */
            if (values)
                put[jpeg_places[k + JPEG_FIRST(entry)]] = (int16_t)((int32_t)(entry << 7) >> 25);
            jpeg_drop(b, entry);
            return to - 64;
        }
        /* One symbol alone: a long one, or of several at once one is the block's last. */
        int length = (int)(entry & 63), symbol = (int)(entry >> 18 & 255);
        if (!values)
            jpeg_refill(b);
        if (!values || JPEG_ADVANCE(entry) != JPEG_SLOW || !length)
            length = jpeg_code(&ac->codes, b->bits, &symbol);
        if (!length)
            return JPEG_CODE;
        jpeg_drop(b, (uint32_t)length);
        int size = symbol & 15, run = symbol >> 4;
        if (!size && run < 15)
            return k;
        k += run + 1;
        if (k > 63)
            return JPEG_BEYOND;
        if (size) {
            if (values)
                put[jpeg_places[k]] = (int16_t)jpeg_value(b->bits, size);
            jpeg_drop(b, (uint32_t)size);
        }
        if (k == 63)
            return k;
    }
}

JPEG_INLINE uint8_t jpeg_clamp(int value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* ---- the inverse DCT: as libjpeg-turbo's in vectors, whose sums of two inputs wrap at 16 bits and whose
   intermediate results saturate there; files of an encoder never get so far ---- */

typedef int16_t jpeg_short8 __attribute__((vector_size(16)));
typedef uint16_t jpeg_ushort8 __attribute__((vector_size(16)));
typedef int32_t jpeg_int8 __attribute__((vector_size(32)));
typedef uint32_t jpeg_uint8 __attribute__((vector_size(32)));

#define JPEG_WIDE(x) ((jpeg_uint8) __builtin_convertvector((jpeg_short8)(x), jpeg_int8))

/* Saturated to 16 bits after a shift to the right. */
#if defined(__SSE2__)
#define JPEG_NARROW(result, wide, bits)                                                                      \
    do {                                                                                                     \
        jpeg_int8 shifted_ = (jpeg_int8)(wide) >> (bits);                                                    \
        __m128i halves_[2];                                                                                  \
        memcpy(halves_, &shifted_, 32);                                                                      \
        (result) = (jpeg_short8)_mm_packs_epi32(halves_[0], halves_[1]);                                     \
    } while (0)
#else
#define JPEG_NARROW(result, wide, bits)                                                                      \
    do {                                                                                                     \
        jpeg_int8 shifted_ = (jpeg_int8)(wide) >> (bits), over_ = shifted_ > 32767,                          \
                  under_ = shifted_ < -32768;                                                                \
        shifted_ = (shifted_ & ~(over_ | under_)) | (over_ & 32767) | (under_ & -32768);                     \
        (result) = __builtin_convertvector(shifted_, jpeg_short8);                                           \
    } while (0)
#endif

/* Eight transforms of eight side by side: lane i of in[0..7] to lane i of out[0..7]. */
JPEG_INLINE void jpeg_transform(const jpeg_ushort8 *in, jpeg_short8 *out, int shift) {
    const uint32_t rounding = 1u << (shift - 1);
    jpeg_uint8 even0, even1, even2, even3, odd0, odd1, odd2, odd3;
    jpeg_uint8 c2 = JPEG_WIDE(in[2]), c1 = JPEG_WIDE(in[1]), c3 = JPEG_WIDE(in[3]);
    jpeg_uint8 c6 = JPEG_WIDE(in[6]), c5 = JPEG_WIDE(in[5]), c7 = JPEG_WIDE(in[7]);
    jpeg_uint8 sum = (JPEG_WIDE(in[0] + in[4]) << 13) + rounding,
               difference = (JPEG_WIDE(in[0] - in[4]) << 13) + rounding;
    jpeg_uint8 z = (c2 + c6) * 4433u, low = z - c6 * 15137u, high = z + c2 * 6270u;
    even0 = sum + high;
    even3 = sum - high;
    even1 = difference + low;
    even2 = difference - low;
    jpeg_uint8 z1 = (c7 + c1) * 7373u, z2 = (c5 + c3) * 20995u;
    jpeg_uint8 z3 = JPEG_WIDE(in[7] + in[3]), z4 = JPEG_WIDE(in[5] + in[1]), z5 = (z3 + z4) * 9633u;
    z3 = z5 - z3 * 16069u;
    z4 = z5 - z4 * 3196u;
    odd0 = c7 * 2446u - z1 + z3;
    odd1 = c5 * 16819u - z2 + z4;
    odd2 = c3 * 25172u - z2 + z3;
    odd3 = c1 * 12299u - z1 + z4;
    JPEG_NARROW(out[0], even0 + odd3, shift);
    JPEG_NARROW(out[7], even0 - odd3, shift);
    JPEG_NARROW(out[1], even1 + odd2, shift);
    JPEG_NARROW(out[6], even1 - odd2, shift);
    JPEG_NARROW(out[2], even2 + odd1, shift);
    JPEG_NARROW(out[5], even2 - odd1, shift);
    JPEG_NARROW(out[3], even3 + odd0, shift);
    JPEG_NARROW(out[4], even3 - odd0, shift);
}

/* gcc has clang's builtin from version 12 on, its own before */
#if defined(__clang__) || __GNUC__ >= 12
#define JPEG_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define JPEG_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (jpeg_ushort8){__VA_ARGS__})
#endif
#define JPEG_LOW(a, b) JPEG_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define JPEG_HIGH(a, b) JPEG_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

/* Each round interleaves row i with row i + 4; three of them turn rows into columns. */
#define JPEG_EVEN(a, b) JPEG_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define JPEG_ODD(a, b) JPEG_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15)

JPEG_INLINE void jpeg_transpose(jpeg_short8 *v) {
    for (int round = 0; round < 3; round++) {
        jpeg_short8 t[8];
        for (int i = 0; i < 4; i++) {
            t[2 * i] = JPEG_LOW(v[i], v[i + 4]);
            t[2 * i + 1] = JPEG_HIGH(v[i], v[i + 4]);
        }
        memcpy(v, t, sizeof t);
    }
}

static void jpeg_inverse(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    jpeg_ushort8 in[8], ac = {0};
    jpeg_short8 v[8];
    for (int i = 0; i < 8; i += 2) {
        jpeg_ushort8 both[2], factors[2];
        memcpy(both, coefficients + 8 * i, 32);
        memcpy(factors, quant + 8 * i, 32);
        ac |= i ? both[0] | both[1] : JPEG_ODD(both[0], both[1]);
        both[0] *= factors[0];
        both[1] *= factors[1];
        in[jpeg_rows[i]] = JPEG_EVEN(both[0], both[1]);
        in[jpeg_rows[i + 1]] = JPEG_ODD(both[0], both[1]);
    }
    uint64_t any[2];
    memcpy(any, &ac, 16);
    if (any[0] | any[1])
        jpeg_transform(in, v, 11);
    else
        for (int i = 0; i < 8; i++)
            v[i] = (jpeg_short8)(in[0] << 2);
    jpeg_transpose(v);
    jpeg_transform((const jpeg_ushort8 *)v, v, 18);
    jpeg_transpose(v);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            out[i * stride + j] = jpeg_clamp(v[i][j] + 128);
}

/* What the transforms to 4 and to 2 samples take of each coefficient, times 2^14, by jpeg_places' order of
   rows, for the first half of the samples; in the other half that of the last four, the odd ones, is
   negative. */
static int16_t jpeg_weights[2][2][8];

/* The means of 2 x 2 or 4 x 4 samples of the full transform before they are rounded; half is 2 or 1. */
JPEG_INLINE void
jpeg_shrink(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride, int half) {
    int16_t rows[4][8]; /* three bits of fraction */
    for (int j = 0; j < 2 * half; j++) {
        const int16_t *weights = jpeg_weights[2 - half][j < half ? j : 2 * half - 1 - j];
        for (int x = 0; x < 8; x++) {
            uint32_t sum = 1 << 10;
            for (int k = 0; k < 8; k++) {
                int place = k / 2 * 16 + 2 * x + k % 2,
                    weight = j >= half && k >= 4 ? -weights[k] : weights[k];
                sum += (uint32_t)((int16_t)((uint32_t)coefficients[place] * quant[place]) * weight);
            }
            int row = (int32_t)sum >> 11;
            rows[j][x] = (int16_t)(row < -32768 ? -32768 : row > 32767 ? 32767 : row);
        }
    }
    for (int y = 0; y < 2 * half; y++)
        for (int j = 0; j < 2 * half; j++) {
            const int16_t *weights = jpeg_weights[2 - half][j < half ? j : 2 * half - 1 - j];
            uint32_t sum = 1 << 19;
            for (int k = 0; k < 8; k++)
                sum += (uint32_t)(rows[y][jpeg_rows[k]] * (j >= half && k >= 4 ? -weights[k] : weights[k]));
            out[y * stride + j] = jpeg_clamp(((int32_t)sum >> 20) + 128);
        }
}

static void jpeg_to_4(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    jpeg_shrink(coefficients, quant, out, stride, 2);
}

static void jpeg_to_2(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    jpeg_shrink(coefficients, quant, out, stride, 1);
}

#if defined(__x86_64__)
#define JPEG_NEW __attribute__((target("avx2,bmi,bmi2")))

JPEG_NEW JPEG_INLINE __m256i jpeg_rotate(__m256i both, int first, int second) {
    return _mm256_madd_epi16(
        both, _mm256_set1_epi32((int)((uint32_t)first & 0xFFFF) | (int)((uint32_t)second << 16)));
}

/* As jpeg_transform, of pairs of rows as jpeg_places has them; out[i] are 32 bits yet to be saturated. */
JPEG_NEW JPEG_INLINE void jpeg_transform_new(const __m256i *in, __m256i *out, int shift) {
    const __m256i rounding = _mm256_set1_epi32(1 << (shift - 1));
    __m256i sum = _mm256_srai_epi32(_mm256_slli_epi32(jpeg_rotate(in[0], 1, 1), 16), 3);
    __m256i difference = _mm256_srai_epi32(_mm256_slli_epi32(jpeg_rotate(in[0], 1, -1), 16), 3);
    sum = _mm256_add_epi32(sum, rounding);
    difference = _mm256_add_epi32(difference, rounding);
    __m256i low = jpeg_rotate(in[1], 4433, 4433 - 15137), high = jpeg_rotate(in[1], 4433 + 6270, 4433);
    __m256i even0 = _mm256_add_epi32(sum, high), even3 = _mm256_sub_epi32(sum, high);
    __m256i even1 = _mm256_add_epi32(difference, low), even2 = _mm256_sub_epi32(difference, low);
    __m256i both = _mm256_add_epi16(in[2], in[3]); /* z4 and z3 */
    __m256i z3 = jpeg_rotate(both, 9633, 9633 - 16069), z4 = jpeg_rotate(both, 9633 - 3196, 9633);
    __m256i odd0 = _mm256_add_epi32(jpeg_rotate(in[2], -7373, 2446 - 7373), z3);
    __m256i odd1 = _mm256_add_epi32(jpeg_rotate(in[3], 16819 - 20995, -20995), z4);
    __m256i odd2 = _mm256_add_epi32(jpeg_rotate(in[3], -20995, 25172 - 20995), z3);
    __m256i odd3 = _mm256_add_epi32(jpeg_rotate(in[2], 12299 - 7373, -7373), z4);
    out[0] = _mm256_srai_epi32(_mm256_add_epi32(even0, odd3), shift);
    out[7] = _mm256_srai_epi32(_mm256_sub_epi32(even0, odd3), shift);
    out[1] = _mm256_srai_epi32(_mm256_add_epi32(even1, odd2), shift);
    out[6] = _mm256_srai_epi32(_mm256_sub_epi32(even1, odd2), shift);
    out[2] = _mm256_srai_epi32(_mm256_add_epi32(even2, odd1), shift);
    out[5] = _mm256_srai_epi32(_mm256_sub_epi32(even2, odd1), shift);
    out[3] = _mm256_srai_epi32(_mm256_add_epi32(even3, odd0), shift);
    out[4] = _mm256_srai_epi32(_mm256_sub_epi32(even3, odd0), shift);
}

JPEG_NEW JPEG_INLINE __m256i jpeg_load(const int16_t *coefficients, const uint16_t *quant, int pair) {
    return _mm256_mullo_epi16(
        _mm256_loadu_si256((const __m256i *)(coefficients + 16 * pair)),
        _mm256_loadu_si256((const __m256i *)(quant + 16 * pair)));
}

/* Two rows of 32 bits as two of 16, one after the other, their columns as jpeg_rows. */
JPEG_NEW JPEG_INLINE __m256i jpeg_two_rows(__m256i first, __m256i second) {
    const __m256i columns =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 14, 15, 10, 11, 6, 7));
    return _mm256_shuffle_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8), columns);
}

/* In each half, four columns of four 32-bit numbers as rows of bytes. */
JPEG_NEW JPEG_INLINE __m256i jpeg_square(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i square =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m256i bytes =
        _mm256_shuffle_epi8(_mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), square);
    return _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x80));
}

JPEG_NEW static void
jpeg_inverse_new(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    __m256i in[4], v[8], t[4], ac = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        __m256i raw = _mm256_loadu_si256((const __m256i *)(coefficients + 16 * i));
        ac = _mm256_or_si256(ac, i ? raw : _mm256_srli_epi32(raw, 16));
        in[i] = jpeg_load(coefficients, quant, i);
    }
    if (!_mm256_testz_si256(ac, ac))
        jpeg_transform_new(in, v, 11);
    else
        for (int i = 0; i < 8; i++)
            v[i] = _mm256_srai_epi32(_mm256_slli_epi32(in[0], 18), 16);
    for (int i = 0; i < 4; i++)
        v[i] = jpeg_two_rows(v[i], v[i + 4]);
    for (int i = 0; i < 2; i++) {
        t[i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[i + 2] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        in[2 * i] = _mm256_unpacklo_epi64(t[2 * i], t[2 * i + 1]);
        in[2 * i + 1] = _mm256_unpackhi_epi64(t[2 * i], t[2 * i + 1]);
    }
    jpeg_transform_new(in, v, 18);
    for (int i = 0; i < 2; i++)
        t[i] = jpeg_square(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    for (int i = 0; i < 2; i++) { /* rows 0, 1, 4, 5; rows 2, 3, 6, 7 */
        __m256i rows = i ? _mm256_unpackhi_epi32(t[0], t[1]) : _mm256_unpacklo_epi32(t[0], t[1]);
        for (int half = 0; half < 2; half++) {
            __m128i two = half ? _mm256_extracti128_si256(rows, 1) : _mm256_castsi256_si128(rows);
            uint8_t *line = out + (4 * half + 2 * i) * stride;
            _mm_storel_epi64((__m128i *)line, two);
            _mm_storel_epi64((__m128i *)(line + stride), _mm_unpackhi_epi64(two, two));
        }
    }
}
/* Two pairs of pairs of rows, each times the weights of its place. */
JPEG_NEW JPEG_INLINE __m256i jpeg_weigh(__m256i first, __m256i second, const int16_t *weights) {
    return _mm256_add_epi32(
        jpeg_rotate(first, weights[0], weights[1]), jpeg_rotate(second, weights[2], weights[3]));
}

/* As jpeg_shrink with half = 2, of 8 or, with their upper half unused, 4 columns. */
JPEG_NEW JPEG_INLINE void jpeg_transform_4(const __m256i *in, __m256i *out, int shift) {
    const __m256i rounding = _mm256_set1_epi32(1 << (shift - 1));
    for (int j = 0; j < 2; j++) {
        __m256i even = _mm256_add_epi32(jpeg_weigh(in[0], in[1], jpeg_weights[0][j]), rounding);
        __m256i odd = jpeg_weigh(in[2], in[3], jpeg_weights[0][j] + 4);
        out[j] = _mm256_srai_epi32(_mm256_add_epi32(even, odd), shift);
        out[3 - j] = _mm256_srai_epi32(_mm256_sub_epi32(even, odd), shift);
    }
}

JPEG_NEW static void
jpeg_to_4_new(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    __m256i in[4], v[4];
    for (int i = 0; i < 4; i++)
        in[i] = jpeg_load(coefficients, quant, i);
    jpeg_transform_4(in, v, 11);
    __m256i first = jpeg_two_rows(v[0], v[2]), second = jpeg_two_rows(v[1], v[3]);
    __m256i t[2] = {_mm256_unpacklo_epi32(first, second), _mm256_unpackhi_epi32(first, second)};
    for (int i = 0; i < 2; i++) { /* of which only the lower halves count */
        __m256i upper = _mm256_castsi128_si256(_mm256_extracti128_si256(t[i], 1));
        in[2 * i] = _mm256_unpacklo_epi64(t[i], upper);
        in[2 * i + 1] = _mm256_unpackhi_epi64(t[i], upper);
    }
    jpeg_transform_4(in, v, 20);
    uint32_t rows[4];
    _mm_storeu_si128((__m128i *)rows, _mm256_castsi256_si128(jpeg_square(v[0], v[1], v[2], v[3])));
    for (int i = 0; i < 4; i++)
        memcpy(out + i * stride, &rows[i], 4);
}

JPEG_NEW static void
jpeg_to_2_new(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    const int16_t *weights = jpeg_weights[1][0];
    const __m256i rounding = _mm256_set1_epi32(1 << 10);
    __m256i even =
        _mm256_add_epi32(jpeg_rotate(jpeg_load(coefficients, quant, 0), weights[0], weights[1]), rounding);
    __m256i odd =
        jpeg_weigh(jpeg_load(coefficients, quant, 2), jpeg_load(coefficients, quant, 3), weights + 4);
    __m256i rows = jpeg_two_rows(
        _mm256_srai_epi32(_mm256_add_epi32(even, odd), 11),
        _mm256_srai_epi32(_mm256_sub_epi32(even, odd), 11));
    rows = _mm256_madd_epi16(rows, _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)weights)));
    int32_t sums[8];
    _mm256_storeu_si256((__m256i *)sums, _mm256_hadd_epi32(rows, rows));
    for (int y = 0; y < 2; y++) {
        uint32_t even_ = (uint32_t)sums[4 * y] + (1 << 19), odd_ = (uint32_t)sums[4 * y + 1];
        out[y * stride] = jpeg_clamp(((int32_t)(even_ + odd_) >> 20) + 128);
        out[y * stride + 1] = jpeg_clamp(((int32_t)(even_ - odd_) >> 20) + 128);
    }
}
#endif

/* Not memset, which some compilers make slow for so few bytes. */
JPEG_INLINE void jpeg_clear(int16_t *coefficients) {
    const jpeg_short8 zero = {0};
    for (int i = 0; i < 64; i += 8)
        memcpy(coefficients + i, &zero, 16);
}

JPEG_INLINE void jpeg_finish(jpeg_coefficients *block) {
    const jpeg_component *c = block->component;
    const jpeg_place *place = &block->place;
    uint8_t edge[64];
    if (!c)
        return;
    if (place->wide >= c->side && place->high >= c->side)
        c->inverse(block->coefficients, c->quant, place->out, place->stride);
    else {
        c->inverse(block->coefficients, c->quant, edge, 8);
        for (int y = 0; y < c->side && y < place->high; y++)
            for (int x = 0; x < c->side && x < place->wide; x++)
                place->out[y * place->stride + x] = edge[8 * y + x];
    }
    jpeg_clear(block->coefficients);
    block->component = NULL;
}

/* One block from bits to samples, but for the transform of the last two; a status. */
JPEG_INLINE int
jpeg_block(jpeg_bits *b, jpeg_component *c, int fast, jpeg_work *w, jpeg_place place, int values) {
    jpeg_coefficients *now = &w->two[w->turn];
    const int side = values ? c->side : 1;
    int difference;
    int last = jpeg_read_dc(b, c->dc, &difference);
    if (last)
        return last;
    int dc = c->predictor += difference;
    if (dc != (int16_t)dc)
        return JPEG_RANGE;
    last = jpeg_read_ac(b, c->ac, fast, now->coefficients, values);
    if (last < 0)
        return last;
    if (values && last) {
        now->coefficients[0] = (int16_t)dc;
        now->component = c;
        now->place = place;
        w->turn ^= 1;
        jpeg_finish(&w->two[w->turn]);
        return JPEG_DONE;
    }
    int flat = side == 8 ? (int16_t)((uint32_t)dc * c->quant[0] << 2) : 0;
    int64_t mean = side == 8 ? (flat + 16) >> 5 : ((int64_t)dc * c->quant[0] + 4) >> 3;
    flat = mean < -128 ? 0 : mean > 127 ? 255 : (int)mean + 128;
    for (int y = 0; y < side && y < place.high; y++)
        memset(
            place.out + y * place.stride, flat,
            (size_t)(place.wide < side ? place.wide > 0 ? place.wide : 0 : side));
    return JPEG_DONE;
}

/* All MCUs, A.2.3, to the planes; `next` is left at the marker that follows. */
JPEG_INLINE int jpeg_run_any(jpeg_scan *s) {
    jpeg_work work;
    jpeg_bits b;
    int left = s->interval, status = JPEG_DONE;
    const int fast = s->fast;
    memset(&work, 0, sizeof work);
    jpeg_open(s);
    b.bits = s->bits, b.at = s->at, b.count = (unsigned)s->count;
    s->restarts = 0;
    for (int row = 0; row < s->down; row++)
        for (int column = 0; column < s->across; column++) {
            if (s->interval && left-- == 0) {
                s->bits = b.bits, s->at = b.at, s->count = b.count & 63;
                if ((status = jpeg_restart(s)))
                    return status;
                b.bits = s->bits, b.at = s->at, b.count = (unsigned)s->count;
                left = s->interval - 1;
            }
            if (b.at >= s->limit) {
                s->bits = b.bits, s->at = b.at, s->count = b.count & 63;
                if ((status = jpeg_more(s)))
                    return status;
                b.at = s->at;
            }
            for (jpeg_component *c = s->component; c < s->component + s->components; c++)
                for (int down = 0; down < c->down; down++)
                    for (int across = 0; across < c->across; across++) {
                        const int side = c->side;
                        const int x = (column * c->across + across) * side, y = (row * c->down + down) * side;
                        const jpeg_place place = {
                            c->plane + (x < c->width && y < c->height ? (ptrdiff_t)y * c->width + x : 0),
                            c->width, c->width - x, c->height - y};
                        status = c->side > 1 ? jpeg_block(&b, c, fast, &work, place, 1)
                                             : jpeg_block(&b, c, fast, &work, place, 0);
                        if (status)
                            return status;
                    }
        }
    jpeg_finish(&work.two[work.turn ^ 1]);
    s->bits = b.bits, s->at = b.at, s->count = b.count & 63;
    return jpeg_close(s);
}

#if defined(__x86_64__)
JPEG_NEW static int jpeg_run_new(jpeg_scan *s) { return jpeg_run_any(s); }
#endif

static int jpeg_run_base(jpeg_scan *s) { return jpeg_run_any(s); }

/* Whether this machine has what the loops are written for. */
static int jpeg_is_fast(void) {
#if defined(__x86_64__) && !defined(JPEG_PORTABLE)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#else
    return 0;
#endif
}

static int jpeg_run(jpeg_scan *s) {
    int newer = jpeg_is_fast();
    for (jpeg_component *c = s->component; c < s->component + s->components; c++) {
        c->inverse = c->side == 8 ? jpeg_inverse : c->side == 4 ? jpeg_to_4 : jpeg_to_2;
#if defined(__x86_64__)
        if (newer)
            c->inverse = c->side == 8 ? jpeg_inverse_new : c->side == 4 ? jpeg_to_4_new : jpeg_to_2_new;
#endif
    }
#if defined(__x86_64__)
    if (newer)
        return jpeg_run_new(s);
#endif
    return jpeg_run_base(s);
}

#endif
