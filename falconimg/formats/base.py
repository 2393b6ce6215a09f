"""What a file format is: the class that each entry of FORMATS is made of.

Pixels are arrays of shape (height, width, channels), uint8 or uint16, with
channels in OpenCV's order: 1 gray, 3 BGR, 4 BGRA (straight alpha).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy.typing as npt

from falconimg.planes import Planes

Pixels = npt.NDArray[Any]  # uint8 or uint16, which the stubs of OpenCV cannot say


class Metadata(NamedTuple):
    """What stands beside the pixels, each block as the file holds it, without its container's framing.

    `exif` starts at the TIFF header (`II*\\0` or `MM\\0*`); `xmp` is the XML packet.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


NO_METADATA = Metadata()


@dataclass(frozen=True)
class Header:
    """What the container says of a picture, read without decoding any pixel.

    `width` and `height` are those stored, before orientation; `channels` and
    `depth` (bits) are those of the array that `decode` gives. `metadata` is
    what a result may keep: its orientation is 1 already, because the pixels
    are turned, and a profile of colours that `decode` converts (CMYK) is not
    in it.
    """

    format: str
    width: int
    height: int
    channels: Literal[1, 3, 4]
    depth: Literal[8, 16] = 8
    orientation: int = 1  # EXIF's 1 to 8
    frames: int = 1  # more than one: 2 stands for "several"
    metadata: Metadata = NO_METADATA
    notes: tuple[str, ...] = ()  # what could not be kept of the file, a sentence each
    detail: Any = None  # the format's own, for its `decode`

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as seen: after the orientation is applied."""
        return (self.width, self.height) if self.orientation < 5 else (self.height, self.width)

    @property
    def nbytes(self) -> int:
        """The bytes of the decoded array."""
        return self.width * self.height * self.channels * self.depth // 8

    def shrunk(self, number: int) -> Header:
        """That of the picture with its sides divided by a number, rounded up."""
        return replace(self, width=-(-self.width // number), height=-(-self.height // number)) if number > 1 else self


class Load(NamedTuple):
    """How a picture may be decoded where only approximately the same is wanted.

    `shrink` divides its sides, rounded up, each pixel being the mean of those that it stands for; `planes` says that
    Planes are as good as an array.
    """

    shrink: int = 1
    planes: bool = False


AS_IT_IS = Load()


@dataclass(frozen=True)
class Options:
    """How a result is encoded."""

    quality: int = 95  # 1 to 100; formats without loss ignore it
    background: tuple[int, int, int] = (255, 255, 255)  # R, G, B under what was transparent


class Encoded(NamedTuple):
    """A file's bytes, and what the format could not hold, a sentence each."""

    data: bytes
    notes: tuple[str, ...]


class Format(ABC):
    """One file format. A subclass and its row in FORMATS is all that a format takes."""

    name: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]]  # lower case, with the dot; the first is the usual one
    media_type: ClassVar[str]
    reads: ClassVar[str]  # for README's table: what is read
    writes: ClassVar[str]  # ... what is written
    keeps: ClassVar[frozenset[Literal["gray", "alpha", "16 bit", "icc", "exif", "xmp"]]]  # what a written file holds
    quality: ClassVar[int | None] = None  # the default; None where it means nothing
    takes_planes: ClassVar[bool] = False  # whether `encode` takes Planes as well
    decode_cost: ClassVar[float]  # peak bytes while decoding ÷ bytes of the decoded array
    encode_cost: ClassVar[float]  # peak bytes while encoding, the file included ÷ bytes of the array

    @abstractmethod
    def sniff(self, head: bytes) -> bool:
        """Whether a file that starts with these bytes (32, or all of a smaller file) is of this format."""

    @abstractmethod
    def probe(self, data: bytes) -> Header:
        """Read the header by a bounded walk: no pixel decoded, no memory that the file's numbers choose.

        Raises:
            Damaged: the container is truncated or contradicts itself
            Unsupported: a kind of this format that is not read; the detail names it
        """

    def decode_peak(self, header: Header) -> int:
        """The bytes that `decode` takes at most, the file not counted and the picture included."""
        return int(self.decode_cost * header.nbytes)

    def encode_peak(self, nbytes: int, channels: int, quality: int) -> tuple[int, int]:
        """The bytes that `encode` takes at most for an array of `nbytes`, the file included, and those of the file.

        Noise is what takes most: no format makes it smaller.
        """
        return int(self.encode_cost * nbytes), int(1.05 * nbytes)

    @abstractmethod
    def decode(self, data: bytes, header: Header) -> Pixels:
        """The stored pixels, (header.height, header.width, header.channels), not turned by the orientation.

        Raises:
            Damaged: any truncation or corruption that can be detected
        """

    def loads(self, header: Header, shrinks: bool) -> Load:
        """The most that `load` can do for this picture: the largest `shrink`, a power of two, and Planes.

        `shrinks` says that the picture is only wanted smaller.
        """
        return AS_IT_IS

    def load_peak(self, header: Header, load: Load) -> int:
        """As `decode_peak`, for `load`."""
        return self.decode_peak(header)

    def load(self, data: bytes, header: Header, load: Load) -> Pixels | Planes:
        """As `decode`, but at the shrunk size and, where that may be, as Planes."""
        return self.decode(data, header)

    def notes(self, header: Header) -> tuple[str, ...]:
        """What the decoded picture will not have of the file, a sentence each."""
        several = ("of several frames or pages the first was taken",) if header.frames > 1 else ()
        return header.notes + several

    @abstractmethod
    def encode(self, pixels: Pixels, options: Options, metadata: Metadata) -> Encoded:
        """A complete file. `pixels` may be a view whose rows are apart; it is not written to.

        Raises:
            Unencodable: the picture is beyond the format (its sides, say)
        """
