# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=True, auto_pickle=False, autotestdict=False
"""The plan of one image: which steps lead to which results, and the walk that makes them.

Nothing here knows a file format or an operation. A route is the list of steps
of one output; routes that begin with equal steps share them, so the routes of an image make
a tree. Each step, asked with a shape, answers with its effect there:

    Grid    cuts the picture into cells, which are views of it
    Window  keeps one rectangle, a view as well
    Map     makes a new picture by a function
    None    leaves it as it is

The plan asks every step once for each picture it meets, before there are any
pixels; so it knows every result's name and size and the peak of memory. The
walk is depth-first: a leaf is handed out, and let go, before the next one is made.

Of several smaller versions of one picture each is made of another where that is large
enough (a cascade), and a source of which only smaller versions are wanted may be decoded at a smaller size.
"""

from libc.math cimport ceil, floor
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

import numpy as np

ctypedef fused depth_t:
    uint8_t
    uint16_t


class PlanError(Exception):
    """A plan passes a bound: `kind` is "outputs", "pixels", "side" or "total"; `value` is what came."""

    def __init__(self, str kind, value):
        super().__init__(kind, value)
        self.kind = kind
        self.value = value


cdef class Shape:
    """A picture's height and width in pixels, its channels (1, 3, 4) and the bytes of a sample (1, 2)."""

    cdef readonly Py_ssize_t height, width, channels, itemsize

    def __init__(self, Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels=3, Py_ssize_t itemsize=1):
        if height < 1 or width < 1 or channels not in (1, 3, 4) or itemsize not in (1, 2):
            raise ValueError(f"no picture is {height} x {width} x {channels} of {itemsize} bytes")
        self.height, self.width, self.channels, self.itemsize = height, width, channels, itemsize

    @property
    def nbytes(self):
        """The bytes of an array of this shape."""
        return self.pixels() * self.channels * self.itemsize

    cdef pixels(self):
        """Height times width as a number of Python's, which does not overflow."""
        return <object> self.height * self.width

    def resized(self, Py_ssize_t height, Py_ssize_t width):
        """The same kind of picture at another size."""
        return Shape(height, width, self.channels, self.itemsize)

    def __eq__(self, other):
        if not isinstance(other, Shape):
            return NotImplemented
        return (self.height, self.width, self.channels, self.itemsize) == (
            other.height, other.width, other.channels, other.itemsize)

    def __hash__(self):
        return hash((self.height, self.width, self.channels, self.itemsize))

    def __repr__(self):
        return f"Shape({self.height}, {self.width}, {self.channels}, {self.itemsize})"


cdef class Grid:
    """A cut into cells: `rows` and `columns` are the edges, from 0 to the side, ascending."""

    cdef readonly tuple rows, columns

    def __init__(self, rows, columns):
        self.rows, self.columns = tuple(rows), tuple(columns)


cdef class Window:
    """One rectangle is kept: `height` by `width` pixels from row `top`, column `left`."""

    cdef readonly Py_ssize_t top, left, height, width

    def __init__(self, Py_ssize_t top, Py_ssize_t left, Py_ssize_t height, Py_ssize_t width):
        self.top, self.left, self.height, self.width = top, left, height, width


cdef class Map:
    """A new picture of `shape`, made by `make(array) -> array`; `workspace` bytes are needed besides.

    `needs`, if not None, is a (height, width): of its picture any smaller version will do that has at least that size.
    Then it is `make(array, extent)`, where extent is the (height, width) of the picture in the array's pixels: its
    last row and column may stand only in part for the picture. `whole` says that the new picture is itself a smaller
    version of the whole picture.
    """

    cdef readonly Shape shape
    cdef readonly object make
    cdef readonly Py_ssize_t workspace
    cdef readonly tuple needs
    cdef readonly bint whole

    def __init__(self, Shape shape not None, make, Py_ssize_t workspace=0, tuple needs=None, bint whole=False):
        self.shape, self.make, self.workspace, self.needs, self.whole = shape, make, workspace, needs, whole


cdef class Leaf:
    """One result: the route it ends, its number there from 1, its cell in the last grid, shape and path."""

    cdef readonly Py_ssize_t route, index, row, column
    cdef readonly Shape shape
    cdef public str path

    def __repr__(self):
        return f"Leaf({self.path!r}, {self.shape!r})"


cdef class _Node:
    """A picture on the way: how it comes from its parent, and what is made of it."""

    cdef object effect              # Map, Window, or None for the root and for the grid's cells
    cdef Py_ssize_t top, left       # where it lies in its parent, if it is a view
    cdef bint view
    cdef Shape shape
    cdef tuple extent               # of the picture in the array's pixels
    cdef list children, leaves

    def __cinit__(self, Shape shape, effect=None, bint view=False, Py_ssize_t top=0, Py_ssize_t left=0):
        self.shape, self.effect, self.view, self.top, self.left = shape, effect, view, top, left
        self.extent = (shape.height, shape.width)
        self.children, self.leaves = [], []


cdef class Plan:
    """What will be made of a picture of `source` shape, and in which order.

    Args:
        source: the decoded, oriented picture's Shape
        routes: for each output its steps; a step is hashable and is asked by `effect`
        effect: (step, Shape) -> Grid | Window | Map | None; what it raises comes through
        names: for each route (parts, numbered), as falconimg.job.Template has them
        max_outputs, max_pixels, max_side, max_total: bounds of leaves, of each
            picture on the way, of its sides, and of all leaves' pixels together

    Raises:
        PlanError: one of the bounds is passed; found before the tree grows beyond it
    """

    cdef readonly Shape source
    cdef readonly tuple leaves
    cdef _Node root
    cdef object effect
    cdef Py_ssize_t max_outputs, max_pixels, max_side, max_total
    cdef object total  # may pass max_total, and Py_ssize_t with it
    cdef list found, counts

    def __init__(self, Shape source not None, routes, effect, names, *, Py_ssize_t max_outputs,
                 Py_ssize_t max_pixels, Py_ssize_t max_side, Py_ssize_t max_total):
        self.source, self.effect = source, effect
        self.max_outputs, self.max_pixels = max_outputs, max_pixels
        self.max_side, self.max_total = max_side, max_total
        self.total, self.found, self.counts = 0, [], [0] * len(routes)
        self.root = _Node(source)
        self.grow(self.root, [(number, tuple(steps)) for number, steps in enumerate(routes)], 0, 1, 1)
        cdef Leaf leaf
        for leaf in self.found:
            parts, numbered = names[leaf.route]
            leaf.path = name(parts, numbered, leaf, self.counts[leaf.route])
        self.leaves = tuple(self.walked(self.root))
        self.cascade(self.root)

    cdef grow(self, _Node node, list routes, Py_ssize_t depth, Py_ssize_t row, Py_ssize_t column):
        """Everything that `routes`, from their step `depth` on, make of `node`, in order."""
        cdef dict branches = {}
        for number, steps in routes:
            if len(steps) == depth:
                self.add_leaf(node, number, row, column)
            else:
                branches.setdefault(steps[depth], []).append((number, steps))
        for members in branches.values():
            asked = {}  # equal steps are one, but each of them may have something to say
            for _, steps in members:
                if id(steps[depth]) not in asked:
                    asked[id(steps[depth])] = self.effect(steps[depth], node.shape)
            self.branch(node, next(iter(asked.values())), members, depth + 1, row, column)

    cdef branch(self, _Node node, effect, list routes, Py_ssize_t depth, Py_ssize_t row, Py_ssize_t column):
        cdef Py_ssize_t i, j
        cdef _Node child
        if effect is None:
            self.grow(node, routes, depth, row, column)
        elif isinstance(effect, Map):
            child = _Node(self.bounded((<Map> effect).shape), effect)
            node.children.append(child)
            self.grow(child, routes, depth, row, column)
        elif isinstance(effect, Window):
            child = self.view(node, effect.top, effect.left, effect.height, effect.width)
            self.grow(child, routes, depth, row, column)
        else:
            ys, xs = (<Grid?> effect).rows, (<Grid> effect).columns
            for i in range(len(ys) - 1):
                for j in range(len(xs) - 1):
                    child = self.view(node, ys[i], xs[j], ys[i + 1] - ys[i], xs[j + 1] - xs[j])
                    self.grow(child, routes, depth, i + 1, j + 1)

    cdef _Node view(self, _Node node, Py_ssize_t top, Py_ssize_t left, Py_ssize_t height, Py_ssize_t width):
        # the differences cannot overflow, sums could
        if top < 0 or left < 0 or height > node.shape.height - top or width > node.shape.width - left:
            raise ValueError(f"{height} x {width} at {top}, {left} is not inside {node.shape!r}")
        cdef _Node child = _Node(node.shape.resized(height, width), None, True, top, left)
        node.children.append(child)
        return child

    cdef Shape bounded(self, Shape shape):
        if max(shape.height, shape.width) > self.max_side:
            raise PlanError("side", max(shape.height, shape.width))
        if shape.pixels() > self.max_pixels:
            raise PlanError("pixels", shape.pixels())
        return shape

    cdef add_leaf(self, _Node node, Py_ssize_t route, Py_ssize_t row, Py_ssize_t column):
        if len(self.found) >= self.max_outputs:
            raise PlanError("outputs", self.max_outputs + 1)
        self.total += node.shape.pixels()
        if self.total > self.max_total:
            raise PlanError("total", self.total)
        self.counts[route] += 1
        cdef Leaf leaf = Leaf()
        leaf.route, leaf.index, leaf.row, leaf.column = route, self.counts[route], row, column
        leaf.shape = node.shape
        node.leaves.append(leaf)
        self.found.append(leaf)

    cdef cascade(self, _Node node):
        """Have each smaller version of a picture made of the smallest other one that is twice as large."""
        cdef _Node child, other, best
        cdef Py_ssize_t height, width
        cdef list pairs = []
        for child in node.children:
            best = None
            if isinstance(child.effect, Map) and (<Map> child.effect).needs is not None:
                height, width = (<Map> child.effect).needs
                for other in node.children:
                    if (isinstance(other.effect, Map) and (<Map> other.effect).whole
                            and other.shape.height // 2 >= height and other.shape.width // 2 >= width
                            and (best is None or other.shape.pixels() < best.shape.pixels())):
                        best = other
            pairs.append((child, best))
        node.children = [child for child, best in pairs if best is None]
        for child, best in pairs:
            if best is not None:
                best.children.append(child)
        for child in node.children:
            self.cascade(child)

    def needs(self):
        """The (height, width) that a smaller version of the source must have for all; None if none will do."""
        cdef _Node child
        sizes = [(<Map> child.effect).needs if isinstance(child.effect, Map) else None for child in self.root.children]
        if self.root.leaves or not sizes or None in sizes:
            return None
        return max([size[0] for size in sizes]), max([size[1] for size in sizes])

    def load(self, Py_ssize_t number):
        """Expect the source from `decode` with its sides divided by that number, rounded up."""
        height, width = self.source.height, self.source.width
        needs = self.needs()
        if number < 1 or needs is None or needs[0] * number > height or needs[1] * number > width:
            raise ValueError(f"a {number}th of {self.source!r} will not do: {needs} is needed")
        self.root.shape = self.source.resized(-(-height // number), -(-width // number))
        self.root.extent = (height / number, width / number)

    def halves(self):
        """Whether planes of half of the sides show less of no smaller version: no side of one is made longer again, and
        nothing is cut out of it from an odd row or column on."""
        return not self.shown(self.root, False)

    cdef bint shown(self, _Node node, bint smaller):
        cdef _Node child
        cdef Shape old = node.shape, new
        for child in node.children:
            new = child.shape
            turned = (new.height, new.width) == (old.width, old.height)
            longer = not turned and (new.height > old.height or new.width > old.width)
            if smaller and (longer or child.top % 2 or child.left % 2):
                return True
            if self.shown(child, smaller or not child.view and new.pixels() < old.pixels()):
                return True
        return False

    cdef list walked(self, _Node node):
        """The leaves in the request's order: those of a picture come before what is made of it."""
        cdef _Node child
        cdef list leaves = list(node.leaves)
        for child in node.children:
            leaves += self.walked(child)
        return leaves

    def peak(self, encode_cost):
        """The most bytes that the walk holds at once, the source included.

        Args:
            encode_cost: (Leaf) -> (bytes needed to encode it, bytes of the file it becomes)
        """
        kept = 0
        cost = {}
        for leaf in self.leaves:
            during, file = encode_cost(leaf)
            cost[leaf] = during
            kept += file
        return self.node_peak(self.root, cost) + kept

    cdef node_peak(self, _Node node, dict cost):
        cdef _Node child
        held = 0 if node.view else node.shape.nbytes
        most = held
        last = node.children[len(node.children) - 1] if node.children else None
        for leaf in node.leaves:
            most = max(most, held + cost[leaf])
        for child in node.children:
            if child.view:
                most = max(most, held + self.node_peak(child, cost))
            else:
                made = child.shape.nbytes + (<Map> child.effect).workspace
                rest = 0 if child is last else held
                most = max(most, held + made, rest + self.node_peak(child, cost))
        return most

    def run(self, decode, emit, tick):
        """Make all leaves: depth-first, those of a cascade after the ones that they are made of.

        Args:
            decode: answers with the source's array, uint8 or uint16, (height, width, channels), at the size
                that `load` was told, if it was; or with anything of that shape that rectangles can be cut from;
                the walk owns it, and lets it go as soon as nothing more is made of it
            emit: called with (Leaf, array) for each; the array may be a view, and is not kept
            tick: called with no argument before each picture is made; what it raises ends the walk
        """
        tick()
        self.walk(self.root, [check(decode(), self.root.shape)], emit, tick)

    cdef walk(self, _Node node, list pictures, emit, tick):
        """`pictures` holds the node's array last; it is taken off as soon as it is not needed."""
        cdef _Node child
        array = pictures.pop()
        last = node.children[len(node.children) - 1] if node.children else None
        for leaf in node.leaves:
            tick()
            emit(leaf, array)
        for child in node.children:
            tick()
            if child.view:
                pictures.append(array[child.top:child.top + child.shape.height,
                                      child.left:child.left + child.shape.width])
            elif (<Map> child.effect).needs is None:
                pictures.append(check((<Map> child.effect).make(array), child.shape))
            else:
                pictures.append(check((<Map> child.effect).make(array, node.extent), child.shape))
            if child is last:
                array = None
            self.walk(child, pictures, emit, tick)


cdef check(array, Shape shape):
    """The array, if it is what the plan says: a step that answers otherwise is a fault of ours."""
    if (array.shape != (shape.height, shape.width, shape.channels) or array.itemsize != shape.itemsize
            or array.dtype.kind != "u"):
        raise ValueError(f"expected {shape!r}, came {array.shape} of {array.dtype}")
    return array


def name(parts, bint numbered, Leaf leaf not None, Py_ssize_t count):
    """A leaf's path: the template's fields filled in, as wide as `:0N` behind them says, and `_1 ... _N` before the
    extension where there are several and no field tells them apart."""
    fields = {"index": leaf.index, "row": leaf.row, "col": leaf.column,
              "width": leaf.shape.width, "height": leaf.shape.height}
    made = []
    for literal, field in parts:
        made.append(literal)
        if field:
            number, _, form = field.partition(":")
            made.append(format(fields[number], form))
    path = "".join(made)
    if count == 1 or numbered:
        return path
    stem, dot, extension = path.rpartition(".")
    return f"{stem}_{leaf.index}{dot}{extension}"


def edges(Py_ssize_t side, Py_ssize_t parts):
    """Where a side of that many pixels is cut into so many parts; the last ones take a pixel more.

    For two parts the cut is at side // 2. Needs 1 <= parts <= side.
    """
    if not 1 <= parts <= side:
        raise ValueError(f"{side} pixels make no {parts} parts")
    base, extra = side // parts, side % parts
    return tuple([i * base + max(0, i - (parts - extra)) for i in range(parts + 1)])


def is_opaque(array):
    """Whether every pixel's alpha is full. Takes (h, w, 4) as `premultiply` does."""
    check4(array)
    if array.dtype == np.uint8:
        return opaque_rows[uint8_t](array, 255)
    return opaque_rows[uint16_t](array, 65535)


cdef bint opaque_rows(const depth_t[:, :, :] array, depth_t full) noexcept:
    cdef Py_ssize_t y, x
    cdef depth_t all_
    cdef const depth_t *pixel
    with nogil:
        for y in range(array.shape[0]):
            pixel = &array[y, 0, 0]
            all_ = full
            for x in range(array.shape[1]):
                all_ &= pixel[4 * x + 3]
            if all_ != full:
                return False
    return True


def premultiply(array, bint overshoot=False):
    """Colours weighted by their alpha, so that a filter does not mix in those of transparent pixels.

    Takes (h, w, 4) with straight alpha, pixels contiguous within a row. Answers
    with a new array: for uint8 an exact uint16 one, colour · alpha and alpha · 255;
    for uint16, and where the filter may overshoot (cubic, lanczos: what is over the
    range must not be cut before the division), a float32 one, colour · alpha / full and alpha.
    Source: Porter and Duff, Compositing Digital Images, 1984.
    """
    check4(array)
    if array.dtype == np.uint16:
        result = np.empty(array.shape, np.float32)
        weigh[uint16_t](array, result, 65535)
    elif overshoot:
        result = np.empty(array.shape, np.float32)
        weigh[uint8_t](array, result, 255)
    else:
        result = np.empty(array.shape, np.uint16)
        weigh_exactly(array, result)
    return result


def unpremultiply(array, Py_ssize_t itemsize=0):
    """What `premultiply` made, back to straight alpha: uint16 to uint8, float32 to `itemsize` bytes a sample.

    Rounded to nearest, bounded to the depth's range; a pixel whose alpha rounds to
    nothing is all zero. Without an itemsize float32 becomes uint16.
    """
    check4(array, (np.uint16, np.float32))
    if array.dtype == np.uint16:
        result = np.empty(array.shape, np.uint8)
        divide_exactly(array, result)
    elif itemsize == 1:
        result = np.empty(array.shape, np.uint8)
        divide[uint8_t](array, result, 255)
    else:
        result = np.empty(array.shape, np.uint16)
        divide[uint16_t](array, result, 65535)
    return result


cdef check4(array, depths=(np.uint8, np.uint16)):
    """What the kernels below rely on, for they go through a row by pointer."""
    if array.ndim != 3 or array.shape[2] != 4 or array.size == 0 or array.dtype not in depths:
        names = " or ".join([depth.__name__ for depth in depths])
        raise ValueError(f"expected (h, w, 4) of {names}, came {array.shape} of {array.dtype}")
    if array.strides[1:] != (4 * array.itemsize, array.itemsize):
        raise ValueError("expected pixels that are contiguous within a row")
    if not array.flags.aligned:
        raise ValueError("expected samples at addresses that are multiples of their size")


cdef void weigh_exactly(const uint8_t[:, :, :] source, uint16_t[:, :, ::1] result) noexcept:
    cdef Py_ssize_t y, x
    cdef const uint8_t *pixel
    cdef uint16_t *out
    with nogil:
        for y in range(source.shape[0]):
            pixel = &source[y, 0, 0]
            out = &result[y, 0, 0]
            for x in range(source.shape[1]):
                out[4 * x] = pixel[4 * x] * pixel[4 * x + 3]
                out[4 * x + 1] = pixel[4 * x + 1] * pixel[4 * x + 3]
                out[4 * x + 2] = pixel[4 * x + 2] * pixel[4 * x + 3]
                out[4 * x + 3] = 255 * pixel[4 * x + 3]


cdef void divide_exactly(const uint16_t[:, :, :] source, uint8_t[:, :, ::1] result) noexcept:
    cdef Py_ssize_t y, x, c
    cdef uint32_t alpha, value
    cdef const uint16_t *pixel
    cdef uint8_t *out
    with nogil:
        for y in range(source.shape[0]):
            pixel = &source[y, 0, 0]
            out = &result[y, 0, 0]
            for x in range(source.shape[1]):
                alpha = min(<uint32_t> pixel[4 * x + 3], <uint32_t> 65025)
                if alpha < 128:
                    out[4 * x] = out[4 * x + 1] = out[4 * x + 2] = out[4 * x + 3] = 0
                    continue
                for c in range(3):
                    value = (pixel[4 * x + c] * <uint32_t> 255 + alpha // 2) // alpha
                    out[4 * x + c] = <uint8_t> min(value, <uint32_t> 255)
                out[4 * x + 3] = <uint8_t> ((alpha + 127) // 255)


cdef void weigh(const depth_t[:, :, :] source, float[:, :, ::1] result, float full) noexcept:
    cdef Py_ssize_t y, x, c
    cdef const depth_t *pixel
    cdef float *out
    cdef float alpha
    with nogil:
        for y in range(source.shape[0]):
            pixel = &source[y, 0, 0]
            out = &result[y, 0, 0]
            for x in range(source.shape[1]):
                alpha = pixel[4 * x + 3]
                for c in range(3):
                    out[4 * x + c] = pixel[4 * x + c] * alpha / full
                out[4 * x + 3] = alpha


cdef void divide(const float[:, :, :] source, depth_t[:, :, ::1] result, float full) noexcept:
    cdef Py_ssize_t y, x, c
    cdef const float *pixel
    cdef depth_t *out
    cdef float alpha
    with nogil:
        for y in range(source.shape[0]):
            pixel = &source[y, 0, 0]
            out = &result[y, 0, 0]
            for x in range(source.shape[1]):
                alpha = pixel[4 * x + 3]
                if not alpha >= 0.5:  # nor is what is no number
                    out[4 * x] = out[4 * x + 1] = out[4 * x + 2] = out[4 * x + 3] = 0
                    continue
                for c in range(3):
                    # 0 comes first: it is what max answers with where the other is no number
                    out[4 * x + c] = <depth_t> (min(max(<float> 0, pixel[4 * x + c] * full / alpha), full)
                                                + <float> 0.5)
                out[4 * x + 3] = <depth_t> (min(alpha, full) + <float> 0.5)


ctypedef fused weight_t:
    uint32_t                        # a fraction of 256 down, of 65536 across; sums in 16 bits between
    float                           # a fraction of 1, which may be negative

ctypedef fused sum_t:
    uint16_t
    float


cdef struct Taps:
    Py_ssize_t first, count         # the samples that make one of the result
    Py_ssize_t weights              # where their weights begin


cdef void part(double place, bint smooth, double sign, double *weights, Py_ssize_t first) noexcept nogil:
    """Add what the samples before a place come to: the samples' weights from `first` - 1 on, times `sign`.

    A sample covers [k, k + 1), and what is summed up to each k is known. In between it is straight or, if `smooth`,
    the cubic through the four nearest sums (Lagrange's interpolation), so that a sample may have a slope.
    """
    cdef Py_ssize_t k = <Py_ssize_t> floor(place), i
    cdef double t = place - k
    cdef double before = t * (t - 1) * (t - 2) / 6 if smooth else 0
    cdef double behind = (t + 1) * t * (t - 1) / 6 if smooth else 0
    cdef double amid = behind - (t + 1) * t * (t - 2) / 2 if smooth else t
    for i in range(first, k):
        weights[i - first + 1] += sign
    weights[k - first] += sign * before
    weights[k - first + 1] += sign * amid
    weights[k - first + 2] += sign * behind


cdef void spread(Taps *taps, weight_t *weights, double *scratch, Py_ssize_t sides, Py_ssize_t side, double start,
                 double step, bint smooth, double whole) noexcept nogil:
    """The taps of an axis: result i is the mean of the samples from start + i · step to start + (i + 1) · step.

    What a result would cover beyond the samples does not count. `weights` and `scratch` have ceil(step) + 4 places
    for each result, or for one. Of whole numbers the rounded ends of the cumulated weights are what is subtracted, so
    that they add up.
    """
    cdef Py_ssize_t i, j, k, first, count, at = 0, room = <Py_ssize_t> ceil(step) + 4
    cdef double low, high, sum_
    for i in range(sides):
        low = max(start + i * step, 0.0)
        high = min(start + (i + 1) * step, <double> side)
        first = min(<Py_ssize_t> floor(low), side - 1)
        count = min(<Py_ssize_t> floor(high) - first + 3, room)
        for j in range(count):
            scratch[j] = 0
        part(high, smooth, 1 / (high - low), scratch, first)
        part(low, smooth, -1 / (high - low), scratch, first)
        # sample first - 1 + j has scratch[j]: those beyond the ends count for the outermost ones
        taps[i].first = max(first - 1, 0)
        taps[i].count = min(first - 1 + count, side) - taps[i].first
        taps[i].weights = at
        for k in range(taps[i].count):
            weights[at + k] = 0
        sum_ = 0
        for j in range(count):
            k = at + min(max(first - 1 + j - taps[i].first, 0), taps[i].count - 1)
            if weight_t is float:
                weights[k] += <float> (scratch[j] * whole)
            else:
                weights[k] += (<uint32_t> ((sum_ + scratch[j]) * whole + 0.5)) - (<uint32_t> (sum_ * whole + 0.5))
            sum_ += scratch[j]
        while taps[i].count > 1 and weights[at + taps[i].count - 1] == 0:
            taps[i].count -= 1
        if taps[i].count > 1 and weights[at] == 0:
            taps[i].first, taps[i].count, taps[i].weights = taps[i].first + 1, taps[i].count - 1, at + 1
        at += room


def shrink(array, Py_ssize_t height, Py_ssize_t width, window=None, bint smooth=False):
    """The mean of the pixels that each pixel of the result covers (area interpolation), rounded.

    Where one covers 4 rows or less, their shares are whole 256ths: each border between two of its rows may bring half
    a level more, and does so where a white one meets a black one; a photograph is within a level.

    Args:
        array: (h, w, c) of uint8, c 1, 3 or 4, pixels contiguous within a row
        height, width: those of the result, each at least 1
        window: (top, left, height, width) in pixels of the array, fractions allowed: what is shown in the result,
            the whole array if None; no smaller than the result; each pixel of the result has a part in the array
        smooth: the array is itself a shrunk picture: what a pixel stood for is not taken for even, but for a part of
            the parabola that has the neighbours' means as well (Colella and Woodward, The Piecewise Parabolic Method,
            1984, 1.6 to 1.9, without its limits)
    """
    cdef double top = 0, left = 0, rows = array.shape[0], columns = array.shape[1]
    if array.ndim != 3 or array.dtype != np.uint8 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"expected (h, w, 1, 3 or 4) of uint8, came {array.shape} of {array.dtype}")
    if array.strides[1] != array.shape[2] or array.shape[2] > 1 and array.strides[2] != 1:
        raise ValueError("expected pixels that are contiguous within a row")
    if window is not None:
        top, left, rows, columns = window
    # the chroma of a row alone is asked for as if there were another
    if not (1 <= height <= rows <= 2 * array.shape[0] and 1 <= width <= columns <= 2 * array.shape[1]):
        raise ValueError(f"{height} x {width} cannot be the mean of {rows} x {columns}")
    cdef double down = rows / height, across = columns / width
    # a hundredth of a pixel, so that no rounding brings its part down to nothing
    if not (top + down > 0.01 and top + (height - 1) * down < array.shape[0] - 0.01
            and left + across > 0.01 and left + (width - 1) * across < array.shape[1] - 0.01):
        raise ValueError(f"{rows} x {columns} at {top}, {left} is not inside {array.shape[0]} x {array.shape[1]}")
    result = np.empty((height, width, array.shape[2]), np.uint8)
    cdef const uint8_t[:, :, :] source = array
    cdef uint8_t[:, :, ::1] target = result
    cdef size_t down_room = <size_t> ceil(down) + 4, across_room = <size_t> ceil(across) + 4
    cdef Taps *taps = <Taps *> malloc((height + width) * sizeof(Taps))
    cdef void *weights = malloc((height * down_room + width * across_room) * 4)
    cdef double *scratch = <double *> malloc(max(down_room, across_room) * sizeof(double))
    cdef void *sums = malloc(array.shape[1] * array.shape[2] * 4)
    try:
        if not taps or not weights or not scratch or not sums:
            raise MemoryError
        with nogil:
            if smooth or down > 4:
                average[float, float](source, target, top, down, left, across, smooth, taps, <float *> weights,
                                      <float *> weights + height * down_room, scratch, <float *> sums, 1, 1)
            else:
                average[uint32_t, uint16_t](source, target, top, down, left, across, False, taps, <uint32_t *> weights,
                                            <uint32_t *> weights + height * down_room, scratch, <uint16_t *> sums,
                                            256, 65536)
    finally:
        free(taps)
        free(weights)
        free(scratch)
        free(sums)
    return result


cdef void average(const uint8_t[:, :, :] source, uint8_t[:, :, ::1] target, double top, double down, double left,
                  double across, bint smooth, Taps *taps, weight_t *lower, weight_t *beside, double *scratch,
                  sum_t *sums, double whole, double wide) noexcept nogil:
    cdef Py_ssize_t y, k, channels = source.shape[2]
    cdef Taps *row
    spread(taps, lower, scratch, target.shape[0], source.shape[0], top, down, smooth, whole)
    spread(taps + target.shape[0], beside, scratch, target.shape[1], source.shape[1], left, across, smooth, wide)
    for y in range(target.shape[0]):
        row = &taps[y]
        for k in range(row.count):
            weigh_row(&source[row.first + k, 0, 0], sums, source.shape[1] * channels,
                      <sum_t> lower[row.weights + k], k == 0)
        if channels == 1:
            mean1(sums, &target[y, 0, 0], taps + target.shape[0], beside, target.shape[1])
        else:
            means(sums, &target[y, 0, 0], taps + target.shape[0], beside, target.shape[1], channels)


cdef void weigh_row(const uint8_t *row, sum_t *sums, Py_ssize_t line, sum_t weight, bint first) noexcept nogil:
    cdef Py_ssize_t x
    if first:
        for x in range(line):
            sums[x] = row[x] * weight
    else:
        for x in range(line):
            sums[x] += row[x] * weight


cdef void mean1(const sum_t *sums, uint8_t *out, const Taps *taps, const weight_t *weights,
                Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t x, k
    cdef weight_t total
    for x in range(width):
        total = 0
        for k in range(taps[x].count):
            total += <weight_t> sums[taps[x].first + k] * weights[taps[x].weights + k]
        out[x] = level(total)


cdef void means(const sum_t *sums, uint8_t *out, const Taps *taps, const weight_t *weights, Py_ssize_t width,
                Py_ssize_t channels) noexcept nogil:
    """`mean1` of three or four channels."""
    cdef Py_ssize_t x, k
    cdef weight_t total0, total1, total2, total3, weight
    cdef const sum_t *sample
    for x in range(width):
        total0 = total1 = total2 = total3 = 0
        sample = sums + channels * taps[x].first
        for k in range(taps[x].count):
            weight = weights[taps[x].weights + k]
            total0 += <weight_t> sample[0] * weight
            total1 += <weight_t> sample[1] * weight
            total2 += <weight_t> sample[2] * weight
            if channels == 4:
                total3 += <weight_t> sample[3] * weight
            sample += channels
        out[0], out[1], out[2] = level(total0), level(total1), level(total2)
        if channels == 4:
            out[3] = level(total3)
        out += channels


cdef inline uint8_t level(weight_t total) noexcept nogil:
    if weight_t is float:
        return <uint8_t> (min(max(total, <float> 0), <float> 255) + <float> 0.5)
    else:
        return <uint8_t> ((total + (1 << 23)) >> 24)
