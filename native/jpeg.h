/* The inner loops of _jpeg.pyx: Huffman codes to blocks, and blocks to samples.

In C for what Cython cannot say: vectors of samples, a second build of the same loops for newer processors, and
functions that must be inlined for their bits to stay in registers.

Source: ITU-T T.81: F.2.2 (Huffman decoding), A.3.6 (zigzag), B.1.1.5 (byte stuffing); the integer inverse DCT is that
of Loeffler, Ligtenberg and Moschytz (ICASSP 1989, figure 1) with 13 bits of fraction, whose rounding is libjpeg's. */

#ifndef FALCONIMG_JPEG_H
#define FALCONIMG_JPEG_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define JPEG_INLINE static inline __attribute__((always_inline))
#define JPEG_RARE __attribute__((noinline, cold))

enum {
    JPEG_FAST = 12, /* the most bits of a table for AC */
    JPEG_DC = 10,   /* the bits of a table for DC */
    JPEG_CHUNK = 16384,
    JPEG_MARGIN = 2048, /* more than one MCU takes: 6 blocks of 64 symbols of at most 31 bits, and 8 bytes ahead */
    JPEG_INDEX = 96     /* where a table entry can lead from coefficient 62: two symbols of 16 */
};

enum { JPEG_DONE = 0, JPEG_ENDS = -1, JPEG_CODE = -2, JPEG_BEYOND = -3, JPEG_MARKER = -4, JPEG_EXTRA = -5, JPEG_RANGE = -6 };

/* The codes of one table, T.81 annex C: a window of 16 bits begins with a code of n bits or fewer if below limit[n]. */
typedef struct {
    uint32_t limit[17];
    int32_t offset[17];
    uint8_t symbols[256];
} jpeg_codes;

/* What the next bits mean. Of `ac`, from the lowest bit on, for one or two symbols at once:
   6 bits: the length; a flag: the block ends here (ENDS); a flag: only the code's length is known, or none (SLOW);
   8 bits each: how far the index goes in all (64 more with a flag), to the first value, to the second;
   16 bits each: the values, the second 0 if there is none; for SLOW the symbol.
   Of `skip`, where values do not matter, the first 16 of these bits, for any number of symbols.
   Of `dc`: the length, 0 if it does not fit; above 16 bits the difference. */
typedef struct {
    uint64_t ac[1 << JPEG_FAST];
    uint16_t skip[1 << JPEG_FAST];
    jpeg_codes codes;
} jpeg_ac;

typedef struct {
    uint32_t fast[1 << JPEG_DC];
    jpeg_codes codes;
} jpeg_dc;

enum { JPEG_ENDS_HERE = 64, JPEG_SLOW = 128 };

typedef struct {
    int across, down;      /* blocks in an MCU */
    int scale;             /* 1, 2, 4 or 8 */
    int width, height;     /* of the plane, in samples */
    uint8_t *plane;        /* width * height samples */
    const jpeg_ac *ac;
    const jpeg_dc *dc;
    int32_t predictor;
    uint16_t quant[64];                /* row by row */
    float weights[JPEG_INDEX * 16];    /* what coefficient k adds to each of the block's samples, for scales 2 and 4 */
} jpeg_component;

typedef struct {
    const uint8_t *next, *end; /* entropy-coded data as it is in the file */
    const uint8_t *at, *stop, *limit; /* in the buffer: what is not in `bits` yet, its end, and when to ask for more */
    uint64_t bits;
    int count;
    int ended;    /* what follows in the file is a marker, or nothing */
    int fast;     /* bits that index ac and skip */
    int components, across, down; /* MCUs */
    int interval; /* MCUs between restart markers, or 0 */
    int restarts;
    jpeg_component component[3];
    uint8_t buffer[JPEG_CHUNK + JPEG_MARGIN + 64];
} jpeg_scan;

/* A.3.6, as places in rows of 8; what leads beyond the block goes to a place that nobody reads. */
static const uint8_t jpeg_zigzag[JPEG_INDEX] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64};

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

/* Takes B.2.4.2's counts and symbols; -1 if they are no code, as codes of nothing but ones are none (annex C). */
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

JPEG_INLINE uint64_t jpeg_entry(int length, int advance, int first, int second, int value, int other) {
    return (uint64_t)length | (uint64_t)advance << 8 | (uint64_t)first << 16 | (uint64_t)second << 24 |
           (uint64_t)(uint16_t)value << 32 | (uint64_t)(uint16_t)other << 48;
}

/* The first symbol of a window, by its code's length (above 8 bits) and itself. */
JPEG_INLINE uint64_t jpeg_single(const uint16_t *found, int fast, uint32_t window) {
    int length = found[window] >> 8, symbol = found[window] & 255, run = symbol >> 4, size = symbol & 15;
    if (!length)
        return jpeg_entry(JPEG_SLOW, 64, 1, 1, 0, 0);
    if (!size)
        return run == 15 ? jpeg_entry(length, 16, 16, 16, 0, 0) : jpeg_entry(length | JPEG_ENDS_HERE, 64, 1, 1, 0, 0);
    if (length + size > fast)
        return jpeg_entry(length | JPEG_SLOW, 64, 1, 1, symbol, 0);
    return jpeg_entry(length + size, run + 1, run + 1, run + 1, jpeg_value((uint64_t)window << (64 - fast + length), size), 0);
}

/* found[window]: the code that a window of so many bits begins with, its length above 8 bits of symbol, or 0. */
static void jpeg_find(const jpeg_codes *codes, int fast, uint16_t *found) {
    uint32_t window = 0;
    for (int length = 1; length <= fast; length++) {
        uint32_t limit = codes->limit[length] >> (16 - fast);
        for (; window < limit; window++)
            found[window] = (uint16_t)(length << 8 | codes->symbols[((int32_t)(window >> (fast - length)) - codes->offset[length]) & 255]);
    }
    for (; window < 1u << fast; window++)
        found[window] = 0;
}

static void jpeg_ac_values(jpeg_ac *table, int fast, int pairs) {
    uint16_t found[1 << JPEG_FAST];
    jpeg_find(&table->codes, fast, found);
    for (uint32_t window = 0; window < 1u << fast; window++) {
        uint64_t one = jpeg_single(found, fast, window);
        if (pairs && !(one & (JPEG_ENDS_HERE | JPEG_SLOW))) {
            int length = one & 63, first = one >> 16 & 255;
            uint64_t two = jpeg_single(found, fast, window << length & ((1u << fast) - 1));
            int both = length + (two & 63);
            if (!(two & JPEG_SLOW) && both <= fast)
                one = two & JPEG_ENDS_HERE
                    ? jpeg_entry(both | JPEG_ENDS_HERE, first + 64, first, first, (int)(one >> 32 & 0xFFFF), 0)
                    : jpeg_entry(both, first + (two >> 8 & 255), first, first + (two >> 16 & 255), (int)(one >> 32 & 0xFFFF), (int)(two >> 32 & 0xFFFF));
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
                flag = JPEG_ENDS_HERE;
            advance += flag ? 64 : run + 1;
        }
        table->skip[window] = length ? (uint16_t)(length | flag | advance << 8) : JPEG_SLOW | 64 << 8;
    }
}

static void jpeg_dc_values(jpeg_dc *table) {
    uint16_t found[1 << JPEG_DC];
    jpeg_find(&table->codes, JPEG_DC, found);
    for (uint32_t window = 0; window < 1u << JPEG_DC; window++) {
        int length = found[window] >> 8, size = found[window] & 15;
        int value = length && size && length + size <= JPEG_DC ? jpeg_value((uint64_t)window << (64 - JPEG_DC + length), size) : 0;
        table->fast[window] = length && length + size <= JPEG_DC ? (uint32_t)(length + size) | (uint32_t)value << 16 : 0;
    }
}

/* ---- bits ---- */

typedef struct {
    uint64_t bits; /* the next ones from the highest on; below `count` of them is what `at` points to, or zeros */
    const uint8_t *at;
    int count;
} jpeg_bits;

/* At least 56 bits. */
JPEG_INLINE void jpeg_refill(jpeg_bits *b) {
    uint64_t word;
    memcpy(&word, b->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    b->bits |= word >> b->count;
    b->at += (63 - b->count) >> 3;
    b->count |= 56;
}

JPEG_INLINE void jpeg_drop(jpeg_bits *b, int length) {
    b->bits <<= length;
    b->count -= length;
}

/* Bytes without their stuffing into the buffer, up to a marker; and whether more bits were taken than there are. */
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

typedef float jpeg_float16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float jpeg_float4 __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
    int16_t coefficients[65]; /* for scale 1, row by row, and a place that nobody reads */
    jpeg_float16 sum;         /* for scale 2: the samples */
    jpeg_float4 few;          /* for scale 4 */
} jpeg_work;

JPEG_INLINE void jpeg_put(const jpeg_component *c, jpeg_work *w, int scale, int index, int value) {
    if (scale == 1)
        w->coefficients[jpeg_zigzag[index]] = (int16_t)value;
    else if (scale == 2)
        w->sum += (float)value * *(const jpeg_float16 *)(c->weights + 16 * index);
    else if (scale == 4)
        w->few += (float)value * *(const jpeg_float4 *)(c->weights + 4 * index);
}

/* The DC coefficient's difference to the predictor, F.2.2.1; 32-bit, with 0x8000 and more for no code. */
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
        jpeg_drop(b, length);
        *difference = size ? jpeg_value(b->bits, size) : 0;
        length = size;
    }
    jpeg_drop(b, length);
    return JPEG_DONE;
}

/* The AC coefficients, F.2.2.2. The index of the last one, or what is wrong. */
JPEG_INLINE int jpeg_read_ac(jpeg_bits *b, const jpeg_component *c, int fast, jpeg_work *w, int scale) {
    const jpeg_ac *ac = c->ac;
    int k = 0;
    for (;;) {
        uint64_t entry;
        int to;
        jpeg_refill(b);
        /* as many steps as leave 31 bits for a symbol that is not in the table */
        for (int step = 0; step < (scale == 8 ? 2 : 3); step++) {
            entry = scale == 8 ? ac->skip[b->bits >> (64 - fast)] : ac->ac[b->bits >> (64 - fast)];
            to = k + (int)(entry >> 8 & 255);
            if (to > 62)
                goto leave;
            if (scale < 8) {
                jpeg_put(c, w, scale, k + (int)(entry >> 24 & 255), (int16_t)(entry >> 48));
                jpeg_put(c, w, scale, k + (int)(entry >> 16 & 255), (int16_t)(entry >> 32));
            }
            b->bits <<= entry & 63;
            b->count -= (int)(entry & 63);
            k = to;
        }
        continue;
    leave:
        if (entry & JPEG_ENDS_HERE && to - 64 <= 62) {
            if (scale < 8)
                jpeg_put(c, w, scale, k + (int)(entry >> 16 & 255), (int16_t)(entry >> 32));
            jpeg_drop(b, (int)(entry & 63));
            return to - 64;
        }
        /* One symbol alone: a long one, or of two at once the first is the block's last. */
        int length = (int)(entry & 63), symbol = (int)(entry >> 32 & 255);
        if (scale == 8)
            jpeg_refill(b);
        if (scale == 8 || !(entry & JPEG_SLOW) || !length)
            length = jpeg_code(&ac->codes, b->bits, &symbol);
        if (!length)
            return JPEG_CODE;
        jpeg_drop(b, length);
        int size = symbol & 15, run = symbol >> 4;
        if (!size && run < 15)
            return k;
        k += run + 1;
        if (k > 63)
            return JPEG_BEYOND;
        if (size) {
            jpeg_put(c, w, scale, k, jpeg_value(b->bits, size));
            jpeg_drop(b, size);
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
#define JPEG_NARROW(result, wide, bits)                                                          \
    do {                                                                                         \
        jpeg_int8 shifted_ = (jpeg_int8)(wide) >> (bits);                                        \
        __m128i halves_[2];                                                                      \
        memcpy(halves_, &shifted_, 32);                                                          \
        (result) = (jpeg_short8)_mm_packs_epi32(halves_[0], halves_[1]);                         \
    } while (0)
#else
#define JPEG_NARROW(result, wide, bits)                                                          \
    do {                                                                                         \
        jpeg_int8 shifted_ = (jpeg_int8)(wide) >> (bits), over_ = shifted_ > 32767, under_ = shifted_ < -32768; \
        shifted_ = (shifted_ & ~(over_ | under_)) | (over_ & 32767) | (under_ & -32768);         \
        (result) = __builtin_convertvector(shifted_, jpeg_short8);                               \
    } while (0)
#endif

/* Eight transforms of eight side by side: lane i of in[0..7] to lane i of out[0..7]; from the fifth on they are 0 if few. */
JPEG_INLINE void jpeg_transform(const jpeg_ushort8 *in, jpeg_short8 *out, int shift, int few) {
    const uint32_t rounding = 1u << (shift - 1);
    jpeg_uint8 even0, even1, even2, even3, odd0, odd1, odd2, odd3;
    jpeg_uint8 c2 = JPEG_WIDE(in[2]), c1 = JPEG_WIDE(in[1]), c3 = JPEG_WIDE(in[3]);
    if (few) {
        jpeg_uint8 sum = (JPEG_WIDE(in[0]) << 13) + rounding, z5 = (c1 + c3) * 9633u;
        jpeg_uint8 low = c2 * 4433u, high = c2 * 10703u;
        even0 = sum + high;
        even3 = sum - high;
        even1 = sum + low;
        even2 = sum - low;
        jpeg_uint8 z3 = z5 - c3 * 16069u, z4 = z5 - c1 * 3196u;
        odd0 = z3 - c1 * 7373u;
        odd1 = z4 - c3 * 20995u;
        odd2 = z3 + c3 * (25172u - 20995u);
        odd3 = z4 + c1 * (12299u - 7373u);
    } else {
        jpeg_uint8 c6 = JPEG_WIDE(in[6]), c5 = JPEG_WIDE(in[5]), c7 = JPEG_WIDE(in[7]);
        jpeg_uint8 sum = (JPEG_WIDE(in[0] + in[4]) << 13) + rounding, difference = (JPEG_WIDE(in[0] - in[4]) << 13) + rounding;
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
    }
    JPEG_NARROW(out[0], even0 + odd3, shift);
    JPEG_NARROW(out[7], even0 - odd3, shift);
    JPEG_NARROW(out[1], even1 + odd2, shift);
    JPEG_NARROW(out[6], even1 - odd2, shift);
    JPEG_NARROW(out[2], even2 + odd1, shift);
    JPEG_NARROW(out[5], even2 - odd1, shift);
    JPEG_NARROW(out[3], even3 + odd0, shift);
    JPEG_NARROW(out[4], even3 - odd0, shift);
}

#define JPEG_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define JPEG_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

/* Each round interleaves row i with row i + 4; three of them turn rows into columns. */
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

JPEG_INLINE void jpeg_inverse(const int16_t *coefficients, const uint16_t *quant, uint8_t *out, ptrdiff_t stride, int few) {
    jpeg_ushort8 in[8], ac = {0};
    jpeg_short8 v[8];
    const int rows = few ? 4 : 8;
    for (int i = 0; i < rows; i++) {
        jpeg_ushort8 row, factors;
        memcpy(&row, coefficients + 8 * i, 16);
        memcpy(&factors, quant + 8 * i, 16);
        if (i)
            ac |= row;
        in[i] = row * factors;
    }
    uint64_t any[2];
    memcpy(any, &ac, 16);
    if (any[0] | any[1])
        jpeg_transform(in, v, 11, few);
    else
        for (int i = 0; i < 8; i++)
            v[i] = (jpeg_short8)(in[0] << 2);
    jpeg_transpose(v);
    jpeg_transform((const jpeg_ushort8 *)v, v, 18, few);
    jpeg_transpose(v);
    for (int i = 0; i < 8; i++) {
        uint8_t row[8];
#if defined(__SSE2__)
        __m128i packed = _mm_xor_si128(_mm_packs_epi16((__m128i)v[i], (__m128i)v[i]), _mm_set1_epi8((char)0x80));
        _mm_storel_epi64((__m128i *)row, packed);
#else
        for (int j = 0; j < 8; j++)
            row[j] = jpeg_clamp(v[i][j] + 128);
#endif
        memcpy(out + i * stride, row, 8);
    }
}

JPEG_INLINE void jpeg_fill(uint8_t *out, ptrdiff_t stride, int value) {
    for (int i = 0; i < 8; i++)
        memset(out + i * stride, value, 8);
}

/* One block from bits to samples at `out`; a status. */
JPEG_INLINE int jpeg_block(jpeg_bits *b, jpeg_component *c, int fast, jpeg_work *w, int scale, uint8_t *out, ptrdiff_t stride) {
    int difference;
    int last = jpeg_read_dc(b, c->dc, &difference);
    if (last)
        return last;
    int dc = c->predictor += difference;
    if (dc != (int16_t)dc)
        return JPEG_RANGE;
    if (scale == 2)
        w->sum = (float)dc * *(const jpeg_float16 *)c->weights + 128.5f;
    else if (scale == 4)
        w->few = (float)dc * *(const jpeg_float4 *)c->weights + 128.5f;
    last = jpeg_read_ac(b, c, fast, w, scale);
    if (last < 0)
        return last;
    if (!out) {
        if (scale == 1 && last)
            memset(w->coefficients, 0, 128);
    } else if (scale == 1) {
        if (last) {
            w->coefficients[0] = (int16_t)dc;
            if (last < 10) /* all within four rows and columns */
                jpeg_inverse(w->coefficients, c->quant, out, stride, 1);
            else
                jpeg_inverse(w->coefficients, c->quant, out, stride, 0);
            memset(w->coefficients, 0, 128);
        } else {
            int flat = (int16_t)((uint32_t)dc * c->quant[0] << 2);
            jpeg_fill(out, stride, jpeg_clamp(((flat + 16) >> 5) + 128));
        }
    } else if (scale == 8) {
        int64_t sum = (int64_t)dc * c->quant[0] + 4;
        out[0] = (uint8_t)(sum < -1024 ? 0 : sum > 1023 ? 255 : (sum >> 3) + 128);
    } else {
        float samples[16];
        const int side = 8 / scale;
        if (scale == 2)
            memcpy(samples, &w->sum, sizeof w->sum);
        else
            memcpy(samples, &w->few, sizeof w->few);
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++) {
                float sample = samples[y * side + x];
                sample = sample > 0 ? sample : 0;
                sample = sample < 255 ? sample : 255;
                out[y * stride + x] = (uint8_t)(int)sample;
            }
    }
    return JPEG_DONE;
}

/* All MCUs, A.2.3, to the planes; `next` is left at the marker that follows. */
JPEG_INLINE int jpeg_run_any(jpeg_scan *s) {
    jpeg_work work;
    jpeg_bits b;
    int left = s->interval, fast = s->fast;
    memset(&work, 0, sizeof work);
    jpeg_open(s);
    b.bits = s->bits, b.at = s->at, b.count = s->count;
    s->restarts = 0;
    for (int row = 0; row < s->down; row++)
        for (int column = 0; column < s->across; column++) {
            if (s->interval && left-- == 0) {
                s->bits = b.bits, s->at = b.at, s->count = b.count;
                int status = jpeg_restart(s);
                if (status)
                    return status;
                b.bits = s->bits, b.at = s->at, b.count = s->count;
                left = s->interval - 1;
            }
            if (b.at >= s->limit) {
                s->bits = b.bits, s->at = b.at, s->count = b.count;
                int status = jpeg_more(s);
                if (status)
                    return status;
                b.at = s->at;
            }
            for (jpeg_component *c = s->component; c < s->component + s->components; c++) {
                const int side = 8 / c->scale;
                for (int i = 0; i < c->across * c->down; i++) {
                    int x = (column * c->across + i % c->across) * side, y = (row * c->down + i / c->across) * side;
                    int wide = c->width - x, high = c->height - y, status;
                    uint8_t edge[64], *out = NULL;
                    ptrdiff_t stride = c->width;
                    int whole = wide >= side && high >= side;
                    if (whole)
                        out = c->plane + (ptrdiff_t)y * stride + x;
                    else if (wide > 0 && high > 0) {
                        out = edge;
                        stride = 8;
                    }
                    switch (c->scale) {
                    case 1: status = jpeg_block(&b, c, fast, &work, 1, out, stride); break;
                    case 2: status = jpeg_block(&b, c, fast, &work, 2, out, stride); break;
                    case 4: status = jpeg_block(&b, c, fast, &work, 4, out, stride); break;
                    default: status = jpeg_block(&b, c, fast, &work, 8, out, stride);
                    }
                    if (status)
                        return status;
                    if (out && !whole)
                        for (int line = 0; line < side && line < high; line++)
                            memcpy(c->plane + (ptrdiff_t)(y + line) * c->width + x, edge + 8 * line, (size_t)(wide < side ? wide : side));
                }
            }
        }
    s->bits = b.bits, s->at = b.at, s->count = b.count;
    return jpeg_close(s);
}

#if defined(__x86_64__)
__attribute__((target("avx2,bmi,bmi2"))) static int jpeg_run_new(jpeg_scan *s) { return jpeg_run_any(s); }
#endif

static int jpeg_run_base(jpeg_scan *s) { return jpeg_run_any(s); }

static int jpeg_run(jpeg_scan *s) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
        return jpeg_run_new(s);
#endif
    return jpeg_run_base(s);
}

#endif
