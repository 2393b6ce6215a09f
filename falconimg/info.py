"""What is said of a picture by its header alone: the one document for every way of asking."""

from __future__ import annotations

from typing import Any

from falconimg.formats import Header, color


def describe(header: Header, size: int) -> dict[str, Any]:
    """The picture of a file of `size` bytes, as JSON takes it.

    `width` and `height` are those seen, after the orientation (EXIF's 1 to 8) is applied; `depth` is 8 or 16 bits,
    those of the pixels that falconimg would decode; `icc` is the colour profile's name, or None.
    """
    width, height = header.size
    return {
        "width": width,
        "height": height,
        "format": header.format,
        "depth": header.depth,
        "alpha": header.channels == 4,
        "orientation": header.orientation,
        "icc": color.name(header.metadata.icc or b""),
        "bytes": size,
    }
