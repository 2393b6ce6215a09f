"""Any bytes as a picture's file: a header whose values are in their bounds, or Damaged, or Unsupported."""

from __future__ import annotations

import time

from falconimg import formats
from falconimg.errors import Damaged, TooLarge, Unsupported

SECONDS = 0.5  # CPU for a file of a few kilobytes, with every line of Python instrumented


def one(data: bytes) -> None:
    """Probe the file."""
    begun = time.thread_time()
    header, said = None, list[str]()
    try:
        header = formats.probe(data)
        said += formats.notes(header)
    except (Damaged, Unsupported, TooLarge) as problem:
        said.append(problem.detail)
    taken = time.thread_time() - begun
    assert taken < SECONDS, f"{taken:.2f} s"
    for text in said:
        assert text.isascii()
        assert text.isprintable()
        assert 0 < len(text) < 200
    if header is None:
        return
    assert header.format in formats.FORMATS
    assert 0 < header.width < 2**32
    assert 0 < header.height < 2**32
    assert header.size in ((header.width, header.height), (header.height, header.width))
    assert header.channels in (1, 3, 4)
    assert header.depth in (8, 16)
    assert 1 <= header.orientation <= 8
    assert header.frames >= 1
    for block in header.metadata:
        # zlib makes at most 1,032 bytes of one
        assert block is None or (isinstance(block, bytes) and len(block) <= 1032 * len(data))
