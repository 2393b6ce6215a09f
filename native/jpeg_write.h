/* The inner loops of _jpeg.pyx that write: samples to blocks, and blocks to Huffman codes; for x86-64 with AVX2 and BMI2.

Two blocks at a time, one in each half of a vector: neighbours of luma, or Cb beside Cr.

Source: ITU-T T.81: A.3.6 (zigzag), F.1.2 (Huffman coding), B.1.1.5 (byte stuffing), F.1.2.3 (padding); the forward DCT
is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989, figure 1) with 13 bits of fraction and libjpeg's rounding;
division by a reciprocal is Alverson's (Integer Division Using Reciprocals, 1991). The bytes are libjpeg's own. */

#ifndef FALCONIMG_JPEG_WRITE_H
#define FALCONIMG_JPEG_WRITE_H

#include <stdlib.h>

#include "jpeg.h"

enum {
    JPEG_MEMORY = -7,
    JPEG_BLOCK = 256 /* bytes that a block takes at most, of 64 symbols of 27 bits, before they are stuffed */
};

/* Of one quantization table, at the coefficient's place in rows; and codes, shifted by 8 bits, with their lengths. */
typedef struct {
    uint16_t correction[64], reciprocal[64], scale[64];
    uint32_t dc[16], ac[256];
} jpeg_channel;

typedef struct {
    const uint8_t *samples;
    ptrdiff_t stride;
    int width, height;
} jpeg_source;

typedef struct {
    int components, across, down; /* 1 or 3; MCUs */
    jpeg_source source[3];
    jpeg_channel luma, chroma;
    uint8_t *out; /* entropy-coded data without stuffing, by malloc */
    size_t size, room;
} jpeg_sink;

static uint64_t jpeg_zigzag[8][256]; /* the places in zigzag order, as bits, of those in a row that are given as bits */
static uint8_t jpeg_natural[64];     /* the place in rows of each in zigzag order */

static void jpeg_fill_zigzag(void) {
    int x = 0, y = 0;
    for (int k = 0; k < 64; k++) {
        jpeg_natural[k] = (uint8_t)(8 * y + x);
        for (int bits = 0; bits < 256; bits++)
            if (bits >> x & 1)
                jpeg_zigzag[y][bits] |= 1ull << k;
        if ((x + y) % 2) { /* down and to the left */
            if (y == 7)
                x++;
            else if (y++, x)
                x--;
        } else if (x == 7)
            y++;
        else if (x++, y)
            y--;
    }
}

/* A channel's divisors are 8 times the table's numbers (in zigzag order), because so much larger is what the DCT gives. */
static void jpeg_divisors(jpeg_channel *channel, const uint16_t *quant) {
    for (int k = 0; k < 64; k++) {
        uint32_t divisor = 8u * quant[k], correction = divisor / 2;
        int i = jpeg_natural[k], bits = 16 + 31 - __builtin_clz(divisor);
        uint32_t quotient = (uint32_t)((1ull << bits) / divisor), rest = (uint32_t)((1ull << bits) % divisor);
        if (!rest)
            quotient >>= 1, bits--;
        else if (rest <= divisor / 2)
            correction++;
        else
            quotient++;
        channel->correction[i] = (uint16_t)correction;
        channel->reciprocal[i] = (uint16_t)quotient;
        channel->scale[i] = (uint16_t)(1u << (32 - bits));
    }
}

/* Codes by symbol, from B.2.4.2's counts and symbols (annex C). */
static void jpeg_book(uint32_t *book, const uint8_t *counts, const uint8_t *symbols) {
    uint32_t code = 0;
    for (int length = 1; length <= 16; length++, code <<= 1)
        for (int i = 0; i < counts[length - 1]; i++)
            book[*symbols++] = code++ << 8 | (uint32_t)length;
}

#if defined(__x86_64__)
#define JPEG_WRITES __attribute__((target("avx2,bmi,bmi2,lzcnt")))

/* ---- bits: not stuffed yet, so that no branch depends on them ---- */

typedef struct {
    uint64_t bits; /* the next ones from the highest on, of which `used` are there, fewer than 8 */
    unsigned used;
    uint8_t *out;
} jpeg_pen;

/* At most 32 bits. */
JPEG_WRITES JPEG_INLINE void jpeg_put(jpeg_pen *pen, uint64_t value, unsigned length) {
    unsigned used = pen->used + length;
    uint64_t bits = pen->bits | value << (64 - used), word = __builtin_bswap64(bits);
    memcpy(pen->out, &word, 8);
    pen->out += used >> 3;
    pen->bits = bits << (used & 56);
    pen->used = used & 7;
}

JPEG_WRITES JPEG_INLINE void jpeg_put_code(jpeg_pen *pen, uint32_t code) { jpeg_put(pen, code >> 8, code & 255); }

/* A code, and a number's `size` bits, F.1.2.1. */
JPEG_WRITES JPEG_INLINE void jpeg_put_number(jpeg_pen *pen, uint32_t code, uint32_t bits, unsigned size) {
    jpeg_put(pen, (uint64_t)(code >> 8) << size | _bzhi_u32(bits, size), (code & 255) + size);
}

JPEG_WRITES JPEG_INLINE void jpeg_put_dc(jpeg_pen *pen, const jpeg_channel *channel, int difference) {
    uint32_t sign = (uint32_t)(difference >> 31), magnitude = ((uint32_t)difference ^ sign) - sign;
    unsigned size = 32 - _lzcnt_u32(magnitude);
    jpeg_put_number(pen, channel->dc[size], (uint32_t)difference + sign, size);
}

/* Two blocks, quantized: the numbers' magnitudes and bits (a negative one's are those of one less) in rows, where in
   zigzag order they are not zero, and the first of them. */
typedef struct {
    uint16_t magnitude[2][64], bits[2][64];
    uint64_t zigzag[2];
    int dc[2];
} jpeg_pair;

JPEG_WRITES JPEG_INLINE void
jpeg_put_block(jpeg_pen *pen, const jpeg_channel *channel, const jpeg_pair *pair, int which, int *predictor) {
    const uint16_t *magnitude = pair->magnitude[which], *bits = pair->bits[which];
    int before = 0;
    jpeg_put_dc(pen, channel, pair->dc[which] - *predictor);
    *predictor = pair->dc[which];
    for (uint64_t zigzag = pair->zigzag[which] & ~1ull; zigzag; zigzag &= zigzag - 1) {
        int place = __builtin_ctzll(zigzag), run = place - before - 1, i = jpeg_natural[place];
        unsigned size = 32 - _lzcnt_u32(magnitude[i]);
        before = place;
        for (; __builtin_expect(run > 15, 0); run -= 16)
            jpeg_put_code(pen, channel->ac[0xF0]);
        jpeg_put_number(pen, channel->ac[(unsigned)run << 4 | size], bits[i], size);
    }
    if (before < 63)
        jpeg_put_code(pen, channel->ac[0]);
}

/* After a byte of ones comes one of zeros, B.1.1.5; so many more bytes are needed. */
JPEG_WRITES static size_t jpeg_stuffing(const uint8_t *bytes, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += bytes[i] == 0xFF;
    return count;
}

JPEG_WRITES static void jpeg_stuff(uint8_t *to, const uint8_t *bytes, size_t size) {
    for (const uint8_t *end = bytes + size; bytes < end;) {
        const uint8_t *found = (const uint8_t *)memchr(bytes, 0xFF, (size_t)(end - bytes));
        size_t span = (size_t)((found ? found + 1 : end) - bytes);
        memcpy(to, bytes, span);
        bytes += span;
        to += span;
        if (found)
            *to++ = 0;
    }
}

/* ---- blocks ---- */

/* In each half, rows become columns. */
JPEG_WRITES JPEG_INLINE void jpeg_turn(__m256i *v) {
    __m256i t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        t[i + 4] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        u[2 * i] = _mm256_unpacklo_epi32(t[2 * i], t[2 * i + 1]);
        u[2 * i + 1] = _mm256_unpackhi_epi32(t[2 * i], t[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        int at = i / 2 * 4 + i % 2;
        v[2 * i] = _mm256_unpacklo_epi64(u[at], u[at + 2]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(u[at], u[at + 2]);
    }
}

/* The sum of a by one factor and b by another, in 32 bits, rounded off by some of them. */
#define JPEG_WEIGHED(a, b, first, second, more_low, more_high, shift)                                          \
    _mm256_packs_epi32(                                                                                        \
        _mm256_srai_epi32(                                                                                     \
            _mm256_add_epi32(jpeg_rotate(_mm256_unpacklo_epi16(a, b), first, second), more_low), shift),       \
        _mm256_srai_epi32(                                                                                     \
            _mm256_add_epi32(jpeg_rotate(_mm256_unpackhi_epi16(a, b), first, second), more_high), shift))

/* Eight transforms in each half: lane i of v[0..7]. After the first pass there are 2 bits of fraction. */
JPEG_WRITES JPEG_INLINE void jpeg_forward(__m256i *v, int first) {
    const int shift = first ? 11 : 15;
    const __m256i rounding = _mm256_set1_epi32(1 << (shift - 1));
    __m256i sum0 = _mm256_add_epi16(v[0], v[7]), sum1 = _mm256_add_epi16(v[1], v[6]);
    __m256i sum2 = _mm256_add_epi16(v[2], v[5]), sum3 = _mm256_add_epi16(v[3], v[4]);
    __m256i t7 = _mm256_sub_epi16(v[0], v[7]), t6 = _mm256_sub_epi16(v[1], v[6]);
    __m256i t5 = _mm256_sub_epi16(v[2], v[5]), t4 = _mm256_sub_epi16(v[3], v[4]);
    __m256i outer = _mm256_add_epi16(sum0, sum3), inner = _mm256_add_epi16(sum1, sum2);
    __m256i t13 = _mm256_sub_epi16(sum0, sum3), t12 = _mm256_sub_epi16(sum1, sum2);
    __m256i plus = _mm256_add_epi16(outer, inner), minus = _mm256_sub_epi16(outer, inner);
    if (first) {
        v[0] = _mm256_slli_epi16(plus, 2);
        v[4] = _mm256_slli_epi16(minus, 2);
    } else {
        v[0] = _mm256_srai_epi16(_mm256_add_epi16(plus, _mm256_set1_epi16(2)), 2);
        v[4] = _mm256_srai_epi16(_mm256_add_epi16(minus, _mm256_set1_epi16(2)), 2);
    }
    v[2] = JPEG_WEIGHED(t12, t13, 4433, 4433 + 6270, rounding, rounding, shift);
    v[6] = JPEG_WEIGHED(t12, t13, 4433 - 15137, 4433, rounding, rounding, shift);
    __m256i z3 = _mm256_add_epi16(t4, t6), z4 = _mm256_add_epi16(t5, t7);
    __m256i low = _mm256_unpacklo_epi16(z3, z4), high = _mm256_unpackhi_epi16(z3, z4);
    __m256i low3 = _mm256_add_epi32(jpeg_rotate(low, 9633 - 16069, 9633), rounding);
    __m256i high3 = _mm256_add_epi32(jpeg_rotate(high, 9633 - 16069, 9633), rounding);
    __m256i low4 = _mm256_add_epi32(jpeg_rotate(low, 9633, 9633 - 3196), rounding);
    __m256i high4 = _mm256_add_epi32(jpeg_rotate(high, 9633, 9633 - 3196), rounding);
    v[7] = JPEG_WEIGHED(t4, t7, 2446 - 7373, -7373, low3, high3, shift);
    v[1] = JPEG_WEIGHED(t4, t7, -7373, 12299 - 7373, low4, high4, shift);
    v[5] = JPEG_WEIGHED(t5, t6, 16819 - 20995, -20995, low4, high4, shift);
    v[3] = JPEG_WEIGHED(t5, t6, -20995, 25172 - 20995, low3, high3, shift);
}

JPEG_WRITES JPEG_INLINE void jpeg_halves(uint16_t *low, uint16_t *high, __m256i both) {
    _mm_storeu_si128((__m128i *)low, _mm256_castsi256_si128(both));
    _mm_storeu_si128((__m128i *)high, _mm256_extracti128_si256(both, 1));
}

/* Of eight rows of 16 samples, the second block's behind the first's. */
JPEG_WRITES JPEG_INLINE void
jpeg_transform_pair(const jpeg_channel *channel, const __m128i *rows, jpeg_pair *pair) {
    __m256i v[8];
    for (int i = 0; i < 8; i++)
        v[i] = _mm256_sub_epi16(_mm256_cvtepu8_epi16(rows[i]), _mm256_set1_epi16(128));
    jpeg_turn(v);
    jpeg_forward(v, 1);
    jpeg_turn(v);
    jpeg_forward(v, 0);
    pair->zigzag[0] = pair->zigzag[1] = 0;
    for (int i = 0; i < 8; i++) {
        __m256i number = _mm256_abs_epi16(v[i]), sign = _mm256_srai_epi16(v[i], 15);
#define JPEG_EACH(table) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(channel->table + 8 * i)))
        number = _mm256_add_epi16(number, JPEG_EACH(correction));
        number = _mm256_mulhi_epu16(number, JPEG_EACH(reciprocal));
        number = _mm256_mulhi_epu16(number, JPEG_EACH(scale));
#undef JPEG_EACH
        jpeg_halves(pair->magnitude[0] + 8 * i, pair->magnitude[1] + 8 * i, number);
        jpeg_halves(pair->bits[0] + 8 * i, pair->bits[1] + 8 * i, _mm256_xor_si256(number, sign));
        v[i] = number;
        if (i == 0) {
            __m256i first = _mm256_sub_epi16(_mm256_xor_si256(number, sign), sign);
            pair->dc[0] = (int16_t)_mm256_extract_epi16(first, 0);
            pair->dc[1] = (int16_t)_mm256_extract_epi16(first, 8);
        }
    }
    for (int i = 0; i < 8; i += 2) {
        __m256i zero = _mm256_cmpeq_epi8(_mm256_packs_epi16(v[i], v[i + 1]), _mm256_setzero_si256());
        uint32_t some = ~(uint32_t)_mm256_movemask_epi8(zero);
        pair->zigzag[0] |= jpeg_zigzag[i][some & 255] | jpeg_zigzag[i + 1][some >> 8 & 255];
        pair->zigzag[1] |= jpeg_zigzag[i][some >> 16 & 255] | jpeg_zigzag[i + 1][some >> 24];
    }
}

/* Eight samples of each of eight rows from (x, y) on; beyond an edge those at it again. */
JPEG_WRITES static JPEG_RARE void jpeg_edge(const jpeg_source *s, int x, int y, uint8_t *to, ptrdiff_t stride) {
    for (int i = 0; i < 8; i++) {
        const uint8_t *row = s->samples + (y + i < s->height ? y + i : s->height - 1) * s->stride;
        for (int j = 0; j < 8; j++)
            to[i * stride + j] = row[x + j < s->width ? x + j : s->width - 1];
    }
}

/* Two blocks from (x, y) on, side by side, of which the second may be beyond the edge. */
JPEG_WRITES JPEG_INLINE void jpeg_neighbours(const jpeg_source *s, int x, int y, __m128i *rows) {
    if (x + 16 <= s->width && y + 8 <= s->height) {
        const uint8_t *at = s->samples + y * s->stride + x;
        for (int i = 0; i < 8; i++, at += s->stride)
            rows[i] = _mm_loadu_si128((const __m128i *)at);
        return;
    }
    jpeg_edge(s, x, y, (uint8_t *)rows, 16);
    jpeg_edge(s, x + 8, y, (uint8_t *)rows + 8, 16);
}

/* The blocks of Cb and Cr from (x, y) on. */
JPEG_WRITES JPEG_INLINE void jpeg_colours(const jpeg_source *cb, const jpeg_source *cr, int x, int y, __m128i *rows) {
    if (x + 8 <= cb->width && y + 8 <= cb->height) {
        const uint8_t *one = cb->samples + y * cb->stride + x, *other = cr->samples + y * cr->stride + x;
        for (int i = 0; i < 8; i++, one += cb->stride, other += cr->stride)
            rows[i] = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)one), _mm_loadl_epi64((const __m128i *)other));
        return;
    }
    jpeg_edge(cb, x, y, (uint8_t *)rows, 16);
    jpeg_edge(cr, x, y, (uint8_t *)rows + 8, 16);
}

/* Room for so many blocks more; a status. */
JPEG_WRITES static int jpeg_room(jpeg_sink *s, jpeg_pen *pen, size_t blocks) {
    size_t need = (size_t)(pen->out - s->out) + JPEG_BLOCK * blocks + 16;
    if (need <= s->room)
        return JPEG_DONE;
    size_t room = need + s->room / 2;
    uint8_t *out = (uint8_t *)realloc(s->out, room);
    if (!out)
        return JPEG_MEMORY;
    pen->out = out + (pen->out - s->out);
    s->out = out;
    s->room = room;
    return JPEG_DONE;
}

/* All MCUs, A.2.3, of gray or of 4:2:0. Where an MCU of luma has blocks beyond the last one, they are flat. */
JPEG_WRITES static int jpeg_write(jpeg_sink *s) {
    jpeg_pen pen = {0, 0, s->out};
    jpeg_pair pair;
    __m128i rows[8];
    const jpeg_source *luma = s->source;
    const int wide = (luma->width + 7) / 8, high = (luma->height + 7) / 8;
    int predictor[3] = {0, 0, 0};
    for (int row = 0; row < s->down; row++) {
        int status = jpeg_room(s, &pen, (size_t)s->across * (s->components == 3 ? 6 : 2));
        if (status)
            return status;
        for (int column = 0; column < s->across; column++) {
            if (s->components == 1) {
                jpeg_neighbours(luma, 16 * column, 8 * row, rows);
                jpeg_transform_pair(&s->luma, rows, &pair);
                for (int i = 0; i < 2 && 2 * column + i < wide; i++)
                    jpeg_put_block(&pen, &s->luma, &pair, i, predictor);
                continue;
            }
            for (int down = 0; down < 2; down++) {
                int there = 2 * row + down < high ? 2 * column + 1 < wide ? 2 : 1 : 0;
                if (there) {
                    jpeg_neighbours(luma, 16 * column, 16 * row + 8 * down, rows);
                    jpeg_transform_pair(&s->luma, rows, &pair);
                }
                for (int i = 0; i < 2; i++)
                    if (i < there)
                        jpeg_put_block(&pen, &s->luma, &pair, i, predictor);
                    else {
                        jpeg_put_code(&pen, s->luma.dc[0]);
                        jpeg_put_code(&pen, s->luma.ac[0]);
                    }
            }
            jpeg_colours(s->source + 1, s->source + 2, 8 * column, 8 * row, rows);
            jpeg_transform_pair(&s->chroma, rows, &pair);
            for (int i = 0; i < 2; i++)
                jpeg_put_block(&pen, &s->chroma, &pair, i, predictor + 1 + i);
        }
    }
    jpeg_put(&pen, 0x7F, 7); /* up to a whole byte by ones, F.1.2.3 */
    s->size = (size_t)(pen.out - s->out);
    return JPEG_DONE;
}

/* Whether what the compiler was told to count leading zeros by does so here; older processors take it for another. */
JPEG_WRITES static int jpeg_counts(void) {
    volatile uint32_t one = 1;
    return _lzcnt_u32(one) == 31;
}

static int jpeg_writes(void) { return jpeg_is_fast() && jpeg_counts(); }
#else
static int jpeg_writes(void) { return 0; }
static int jpeg_write(jpeg_sink *s) {
    (void)s;
    return JPEG_MEMORY; /* jpeg_writes says so before */
}
static size_t jpeg_stuffing(const uint8_t *bytes, size_t size) {
    (void)bytes;
    return size;
}
static void jpeg_stuff(uint8_t *to, const uint8_t *bytes, size_t size) { memcpy(to, bytes, size); }
#endif

#endif
