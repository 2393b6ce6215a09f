# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=True, auto_pickle=False, autotestdict=False
"""Baseline JPEG to the planes that it stores, whole or shrunk on load, and from planes.

Source: ITU-T T.81: A.1.1 (components), B.1 (markers), B.2 (segments); T.871, 10.1 (APP0); T.872, 6.5.3
(APP14). What is not of the usual kind is left to a library, which UnsupportedError says. The loops are in
jpeg.h and jpeg_write.h.
"""

from libc.math cimport M_PI, cos, lround, sqrt
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

import numpy as np

cdef extern from "jpeg.h" nogil:
    enum:
        JPEG_FAST, JPEG_ENDS, JPEG_CODE, JPEG_BEYOND, JPEG_MARKER, JPEG_EXTRA

    ctypedef struct jpeg_codes:
        pass
    ctypedef struct jpeg_ac:
        jpeg_codes codes
    ctypedef struct jpeg_dc:
        jpeg_codes codes
    ctypedef struct jpeg_component:
        int across, down, side, width, height
        uint8_t *plane
        const jpeg_ac *ac
        const jpeg_dc *dc
        uint16_t quant[64]
    ctypedef struct jpeg_scan:
        const uint8_t *next
        const uint8_t *end
        int fast, components, across, down, interval
        jpeg_component component[3]
    const uint8_t jpeg_places[64]
    const uint8_t jpeg_rows[8]
    int16_t jpeg_weights[2][2][8]

    int jpeg_derive(jpeg_codes *codes, const uint8_t *counts, const uint8_t *symbols, int total)
    void jpeg_ac_values(jpeg_ac *table, int fast, int pairs)
    void jpeg_ac_lengths(jpeg_ac *table, int fast)
    void jpeg_dc_values(jpeg_dc *table)
    int jpeg_is_fast() nogil
    int jpeg_run(jpeg_scan *scan)

cdef extern from "jpeg_write.h" nogil:
    enum:
        JPEG_MEMORY
    ctypedef struct jpeg_channel:
        uint32_t dc[16]
        uint32_t ac[256]
    ctypedef struct jpeg_source:
        const uint8_t *samples
        Py_ssize_t stride
        int width, height
    ctypedef struct jpeg_sink:
        int components, across, down
        jpeg_source source[3]
        jpeg_channel luma, chroma
        uint8_t *out
        size_t size, room

    void jpeg_fill_zigzag()
    void jpeg_divisors(jpeg_channel *channel, const uint16_t *quant)
    void jpeg_book(uint32_t *book, const uint8_t *counts, const uint8_t *symbols)
    int jpeg_writes()
    int jpeg_write(jpeg_sink *sink)
    size_t jpeg_stuffing(const uint8_t *bytes, size_t size)
    void jpeg_stuff(uint8_t *to, const uint8_t *bytes, size_t size)

cdef enum:
    SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, SOI = 0xD8, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD
    APP0 = 0xE0, APP14 = 0xEE, APP15 = 0xEF, COM = 0xFE
    MAX_SIDE = 65500  # libjpeg's
    LONG = 32768  # bytes of a scan from which on larger tables are worth their making

cdef dict FAULTS = {
    JPEG_ENDS: "the data ends early",
    JPEG_CODE: "a Huffman code does not exist",
    JPEG_BEYOND: "a block has more than 64 coefficients",
    JPEG_MARKER: "a restart marker is not where it should be",
}


cdef void fill_weights() noexcept:
    """The mean over a sample's part of x of A.3.3's C(u)/2 cos((2x + 1)u pi / 16), times sqrt(8)."""
    cdef int i, j, k, x, u, scale
    cdef double mean
    for i in range(2):
        scale = 2 << i
        for j in range(2 >> i):
            for k in range(8):
                u, mean = jpeg_rows[k], 0
                for x in range(j * scale, (j + 1) * scale):
                    mean += (sqrt(2) * cos((2 * x + 1) * u * M_PI / 16) if u else 1) / scale
                jpeg_weights[i][j][k] = <int16_t> lround(mean * 16384)


fill_weights()
jpeg_fill_zigzag()


class DamagedError(Exception):
    """The data is cut, or contradicts itself or the standard."""


class UnsupportedError(Exception):
    """The file may be good, but is of no kind that is decoded here."""


cdef int rounded_up(int side, int divisor) noexcept:
    return (side + divisor - 1) // divisor


cdef struct Huffman:
    int total  # of its symbols; -1 if there was no such table
    uint8_t[16] counts
    uint8_t[256] symbols


cdef struct Component:
    int name, across, down, quant


cdef struct Tables:
    jpeg_scan scan
    jpeg_ac[4] ac
    jpeg_dc[4] dc


cdef class _Decoder:
    cdef const uint8_t[::1] data
    cdef const uint8_t *bytes
    cdef Py_ssize_t size
    cdef Tables *tables
    cdef Huffman[8] huffman  # 0-3 for DC, 4-7 for AC
    cdef uint16_t[4][64] quant  # in zigzag order
    cdef bint[4] quantized
    cdef Component[3] component
    cdef int components, width, height, interval, adobe
    cdef int[3] scans  # each component's tables for DC and AC, in the halves of a byte
    cdef Py_ssize_t sides  # where the frame has its height, then its width
    cdef bint jfif

    def __cinit__(self, data):
        cdef int i
        self.data = data
        self.size = self.data.shape[0]
        if self.size < 4 or self.data[0] != 0xFF or self.data[1] != SOI:
            raise DamagedError("there is no start of an image")
        self.bytes = &self.data[0]
        for i in range(8):
            self.huffman[i].total = -1
        self.adobe = -1
        self.tables = <Tables *> calloc(1, sizeof(Tables))
        if self.tables == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.tables)

    cdef Py_ssize_t segments(self, Py_ssize_t place, bint after_scan) except -1:
        """Take the segments from a place on; where the scan's data begins, or EOI ends."""
        cdef Py_ssize_t length
        cdef const uint8_t *body
        cdef int marker
        while True:
            if place < self.size and self.bytes[place] != 0xFF:
                raise DamagedError("there are bytes before a marker")
            while place < self.size and self.bytes[place] == 0xFF:
                place += 1
            if place >= self.size:
                raise DamagedError(FAULTS[JPEG_ENDS])
            marker = self.bytes[place]
            place += 1
            if marker == EOI and after_scan:
                return place
            if marker in (0, EOI):
                raise DamagedError("a marker is not where it should be")
            if marker < SOF0 or 0xD0 <= marker <= SOI:
                raise UnsupportedError("an unusual marker")
            length = self.bytes[place] << 8 | self.bytes[place + 1] if self.size - place >= 2 else 0
            if length < 2 or length > self.size - place:
                raise DamagedError(FAULTS[JPEG_ENDS])
            body = self.bytes + place + 2
            place += length
            length -= 2
            if marker == APP0:
                if length >= 14 and memcmp(body, b"JFIF\0", 5) == 0:
                    self.jfif = True
                    if body[5] != 1:
                        raise UnsupportedError("an unknown version of JFIF")
            elif marker == APP14:
                if length >= 12 and memcmp(body, b"Adobe", 5) == 0:
                    self.adobe = body[11]
            elif APP0 <= marker <= APP15 or marker == COM:
                pass
            elif after_scan:
                raise UnsupportedError("another scan")
            elif marker == SOS:
                self.start(body, length)
                return place
            elif marker == DQT:
                self.take_quant(body, length)
            elif marker == DHT:
                self.take_huffman(body, length)
            elif marker == DRI:
                if length != 2:
                    raise DamagedError("a restart interval of a wrong length")
                self.interval = body[0] << 8 | body[1]
            elif marker in (SOF0, SOF1):
                self.take_frame(body, length)
            else:
                raise UnsupportedError("not baseline")

    cdef int take_quant(self, const uint8_t *body, Py_ssize_t length) except -1:
        """B.2.4.1."""
        cdef int wide, index, k
        while length:
            wide, index = body[0] >> 4, body[0] & 15
            body += 1
            length -= 1
            if index > 3 or wide > 1 or length < 64 << wide:
                raise DamagedError("a quantization table is wrong")
            for k in range(64):
                self.quant[index][k] = body[2 * k] << 8 | body[2 * k + 1] if wide else body[k]
            self.quantized[index] = True
            body += 64 << wide
            length -= 64 << wide
        return 0

    cdef int take_huffman(self, const uint8_t *body, Py_ssize_t length) except -1:
        """B.2.4.2."""
        cdef int kind, i, total
        cdef Huffman *table
        while length:
            kind, total = body[0], 0
            if length < 17 or kind & 0xEC:
                raise DamagedError("a Huffman table is wrong")
            for i in range(1, 17):
                total += body[i]
            if total > 256 or length - 17 < total:
                raise DamagedError("a Huffman table is wrong")
            table = &self.huffman[(kind >> 4) * 4 + (kind & 3)]
            table.total = total
            memcpy(table.counts, body + 1, 16)
            memcpy(table.symbols, body + 17, total)
            body += 17 + total
            length -= 17 + total
        return 0

    cdef int take_frame(self, const uint8_t *body, Py_ssize_t length) except -1:
        """B.2.2."""
        cdef int i
        cdef Component *c
        if self.components or length < 6 or length != 6 + 3 * body[5]:
            raise DamagedError("a frame header is wrong")
        if body[0] != 8 or body[5] not in (1, 3):
            raise UnsupportedError("not 8 bits, or not one or three components")
        self.height, self.width = body[1] << 8 | body[2], body[3] << 8 | body[4]
        self.sides = body + 1 - self.bytes
        if not 0 < self.height <= MAX_SIDE or not 0 < self.width <= MAX_SIDE:
            raise UnsupportedError("no such size")
        for i in range(body[5]):
            c = &self.component[i]
            c.name, c.across, c.down, c.quant = (
                body[6 + 3 * i], body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15, body[8 + 3 * i])
            if not 1 <= c.across <= 4 or not 1 <= c.down <= 4 or c.quant > 3:
                raise DamagedError("a frame header is wrong")
        c = self.component
        if body[5] == 1:
            c.across = c.down = 1  # A.2.2: the sampling factors of one component do not matter
        elif (c[0].across > 2 or c[0].down > 2 or c[1].across * c[1].down * c[2].across * c[2].down != 1
              or c[0].name == c[1].name or c[0].name == c[2].name or c[1].name == c[2].name):
            raise UnsupportedError("an unusual sampling")
        self.components = body[5]
        return 0

    cdef int start(self, const uint8_t *body, Py_ssize_t length) except -1:
        """B.2.3, and what the scan's tables must be."""
        cdef int i, dc, ac
        cdef int count = body[0] if length else 0
        cdef Component *c = self.component
        cdef jpeg_component *target
        if not self.components or length != 4 + 2 * count:
            raise DamagedError("a scan header is wrong")
        if count != self.components:
            raise UnsupportedError("several scans")
        if body[1 + 2 * count] != 0 or body[2 + 2 * count] != 63 or body[3 + 2 * count] != 0:
            raise DamagedError("a scan header is wrong")
        if count == 3 and not self.jfif and (
                self.adobe not in (-1, 1)
                or self.adobe == -1 and (c[0].name, c[1].name, c[2].name) == (82, 71, 66)):
            raise UnsupportedError("not YCbCr")
        for i in range(count):
            dc, ac = body[2 + 2 * i] >> 4, body[2 + 2 * i] & 15
            if body[1 + 2 * i] != c[i].name or dc > 3 or ac > 3:
                raise UnsupportedError("an unusual scan header")
            if not self.quantized[c[i].quant] or self.huffman[dc].total < 0 or self.huffman[4 + ac].total < 0:
                raise UnsupportedError("a table is missing")
            self.scans[i] = body[2 + 2 * i]
            target = &self.tables.scan.component[i]
            target.dc, target.ac = &self.tables.dc[dc], &self.tables.ac[ac]
            target.across, target.down = c[i].across, c[i].down
            self.derive(&self.tables.dc[dc].codes, &self.huffman[dc], 15)
            self.derive(&self.tables.ac[ac].codes, &self.huffman[4 + ac], 255)
        return 0

    cdef int derive(self, jpeg_codes *codes, Huffman *table, int top) except -1:
        cdef int i
        for i in range(table.total):
            if table.symbols[i] > top:
                raise DamagedError("a Huffman table is wrong")
        if jpeg_derive(codes, table.counts, table.symbols, table.total) != 0:
            raise DamagedError("a Huffman table is wrong")
        return 0

    cdef planes(self, int luma, int chroma):
        cdef jpeg_scan *scan = &self.tables.scan
        cdef jpeg_component *target
        cdef Py_ssize_t place = self.segments(2, False)
        cdef uint8_t[:, ::1] plane
        cdef int i, k, scale, status, across = self.component[0].across, down = self.component[0].down
        cdef bint long_scan = self.size - place >= LONG
        cdef list result = []
        for i in range(self.components):
            target = &scan.component[i]
            scale = chroma if i else luma
            target.side = 8 // scale
            target.width = rounded_up(rounded_up(self.width * target.across, across), scale)
            target.height = rounded_up(rounded_up(self.height * target.down, down), scale)
            for k in range(64):
                target.quant[jpeg_places[k]] = self.quant[self.component[i].quant][k]
            result.append(np.empty((target.height, target.width), np.uint8))
            plane = result[i]
            target.plane = &plane[0, 0]
        scan.components, scan.interval = self.components, self.interval
        scan.across, scan.down = rounded_up(self.width, 8 * across), rounded_up(self.height, 8 * down)
        scan.next, scan.end = self.bytes + place, self.bytes + self.size
        scan.fast = JPEG_FAST if long_scan else 9
        with nogil:
            for i in range(self.components):
                target = &scan.component[i]
                if i != 2 or target.dc != scan.component[1].dc:
                    jpeg_dc_values(<jpeg_dc *> target.dc)
                if i == 2 and target.ac == scan.component[1].ac:
                    continue
                if target.side == 1:
                    jpeg_ac_lengths(<jpeg_ac *> target.ac, scan.fast)
                else:
                    jpeg_ac_values(<jpeg_ac *> target.ac, scan.fast, long_scan)
            status = jpeg_run(scan)
        if status == JPEG_EXTRA:
            raise UnsupportedError("there are bytes after the scan")
        if status:
            raise DamagedError(FAULTS.get(status, "a coefficient is too large"))
        self.segments(scan.next - self.bytes, True)
        return tuple(result)

    cdef int channel(self, int index, jpeg_channel *channel) except -1:
        """What a component is written with: its tables, of which those for codes must be annex K's in size."""
        cdef int dc = self.scans[index] >> 4, ac = self.scans[index] & 15, quant = self.component[index].quant
        cdef int k
        if self.huffman[dc].total != 12 or self.huffman[4 + ac].total != 162:
            raise UnsupportedError("unusual Huffman tables")
        for k in range(64):
            if not 1 <= self.quant[quant][k] <= 255:
                raise UnsupportedError("an unusual quantization table")
        jpeg_divisors(channel, self.quant[quant])
        jpeg_book(channel.dc, self.huffman[dc].counts, self.huffman[dc].symbols)
        jpeg_book(channel.ac, self.huffman[4 + ac].counts, self.huffman[4 + ac].symbols)
        return 0

    cdef bytes written(self, list planes):
        """The file of these planes: this one's head, and their data."""
        cdef jpeg_sink sink
        cdef Py_ssize_t head = self.segments(2, False), size
        cdef int i, status, count = len(planes)
        cdef const uint8_t[:, :] plane
        cdef char *target
        if count != self.components or self.interval or (
                count == 3 and (self.component[0].across, self.component[0].down) != (2, 2)):
            raise UnsupportedError("a head of another kind")
        if count == 3 and (self.scans[1], self.component[1].quant) != (self.scans[2], self.component[2].quant):
            raise UnsupportedError("Cb and Cr have different tables")
        self.channel(0, &sink.luma)
        self.channel(count - 1, &sink.chroma)
        for i in range(count):
            plane = planes[i]
            sink.source[i].samples, sink.source[i].stride = &plane[0, 0], plane.strides[0]
            sink.source[i].height, sink.source[i].width = plane.shape[0], plane.shape[1]
        sink.components, sink.across = count, rounded_up(sink.source[0].width, 16)
        sink.down = rounded_up(sink.source[0].height, 16 if count == 3 else 8)
        # about what a photograph of high quality takes
        sink.room = sink.source[0].width * <size_t> sink.source[0].height // 3 + 4096
        sink.out, sink.size = <uint8_t *> malloc(sink.room), 0
        if sink.out == NULL:
            raise MemoryError
        try:
            with nogil:
                status = jpeg_write(&sink)
                size = 0 if status else head + sink.size + jpeg_stuffing(sink.out, sink.size) + 2
            if status:
                raise MemoryError
            file = PyBytes_FromStringAndSize(NULL, size)
            target = PyBytes_AS_STRING(file)
            with nogil:
                memcpy(target, self.bytes, head)
                jpeg_stuff(<uint8_t *> target + head, sink.out, sink.size)
        finally:
            free(sink.out)
        target[size - 2], target[size - 1] = <char> 0xFF, <char> EOI
        # the frame's height and width, B.2.2
        target[self.sides], target[self.sides + 1] = <char> (sink.source[0].height >> 8), <char> sink.source[0].height
        target[self.sides + 2], target[self.sides + 3] = <char> (sink.source[0].width >> 8), <char> sink.source[0].width
        return file


def is_fast():
    """Whether this machine has the vectors (AVX2, BMI2) without which a library is faster, or all there is."""
    return bool(jpeg_writes())


def planes(data, int luma=1, int chroma=1):
    """The samples of a baseline JPEG of 8 bits: gray, or YCbCr sampled 4:4:4, 4:2:2, 4:4:0 or 4:2:0.

    data: the whole file, any object of contiguous bytes. luma, chroma: 1, 2, 4 or 8, by what the component's
    sides are divided: a sample is then the mean of as many by as many of the full picture, before they are
    cut to 0-255, and at most 0.52 from it. At 1 the samples are libjpeg's (its accurate integer inverse DCT).

    Returns one or three arrays (h, w) of uint8: Y, then Cb and Cr. A side is the component's (T.81, A.1.1),
    divided, rounded up. GIL-free but for the header. Besides them it takes 100 kB at most.

    Raises:
        DamagedError: the data is cut or wrong
        UnsupportedError: it is no such file, or one that only a library can judge
        MemoryError: there was no memory
        ValueError: luma or chroma is another number
        TypeError: data is no bytes
    """
    if luma not in (1, 2, 4, 8) or chroma not in (1, 2, 4, 8):
        raise ValueError(f"a component is divided by 1, 2, 4 or 8, not by {luma} and {chroma}")
    return (<_Decoder> _Decoder(data)).planes(luma, chroma)


def encode(head, y, cb=None, cr=None):
    """A baseline JPEG of 8 bits, gray or 4:2:0, in the very bytes that libjpeg makes (its accurate integer DCT).

    head: a JPEG of the same components with standard Huffman tables and no restart markers, whose segments up to its
    scan's data are those of the result, but for the sides. y: (h, w) of uint8, with samples side by side within a row;
    cb, cr: (ceil(h / 2), ceil(w / 2)), both or none. Beyond the edges samples count as those at them.

    Returns bytes. GIL-free but for the head. Takes half as much again as the file, or 1/2 of y's bytes, besides it.

    Raises:
        DamagedError, UnsupportedError: the head is wrong, or of no such kind
        MemoryError: there was no memory
        ValueError: the planes do not fit each other, or a side is not from 1 to 65500
        TypeError: head is no bytes
    """
    planes = [y] if cb is None else [y, cb, cr]
    height, width = y.shape
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"a JPEG has sides of 1 to {MAX_SIDE}, not {width}x{height}")
    half = (height + 1) // 2, (width + 1) // 2
    if (cb is None) != (cr is None) or any([plane.shape != half for plane in planes[1:]]):
        raise ValueError(f"planes of {[plane and plane.shape for plane in (y, cb, cr)]} do not fit each other")
    for plane in planes:
        if plane.dtype != np.uint8 or plane.strides[1] != 1 and plane.shape[1] > 1:
            raise ValueError(f"a plane is of uint8, side by side, not of {plane.dtype} with strides {plane.strides}")
    if not jpeg_writes():
        raise UnsupportedError("this machine has no AVX2, BMI2 or LZCNT")
    return (<_Decoder> _Decoder(head)).written(planes)
