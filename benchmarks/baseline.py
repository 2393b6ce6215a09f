"""The original's way, written afresh: FastAPI, and OpenCV from file to file.

All images are read, then each operation goes over all of them, then all are written, as the original did it. What
would make it do less or worse work than falconimg is put right, so that the two differ in their ways alone: an even
kernel becomes odd, sigma is OpenCV's rule (the original's was 4 for every kernel), directories are there, and files
are synced. OpenCV has one thread, since requests side by side fill the cores and more threads cost more CPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.disk import sync

cv2.setNumThreads(1)
PARAMS = {
    ".jpg": [
        cv2.IMWRITE_JPEG_QUALITY, 95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ],
    ".png": [],
}  # fmt: skip
Array = Any


class Image(BaseModel):
    """Where a picture comes from, and where it goes."""

    input: str
    output: str


class Batch(BaseModel):
    """The body of a request."""

    images: list[Image]
    operations: list[str]


def split(array: Array, _value: str) -> list[Array]:
    """Four quadrants."""
    y, x = array.shape[0] // 2, array.shape[1] // 2
    return [array[:y, :x], array[:y, x:], array[y:, :x], array[y:, x:]]


def resize(array: Array, value: str) -> list[Array]:
    """Both sides times the value, by area whichever way it goes."""
    size = int(array.shape[1] * float(value)), int(array.shape[0] * float(value))
    return [cv2.resize(array, size, interpolation=cv2.INTER_AREA)]


def blur(array: Array, value: str) -> list[Array]:
    """Under a Gaussian of this kernel."""
    kernel = int(value) | 1
    return [cv2.GaussianBlur(array, (kernel, kernel), 0)]


OPERATIONS = {"split": split, "splitQuadrants": split, "resize": resize, "blur": blur}
app = FastAPI()


@app.post("/items/")
def process(batch: Batch) -> Batch:
    """The batch, done."""
    arrays: list[list[Array]] = [[cv2.imread(image.input)] for image in batch.images]
    for operation in batch.operations:
        name, _, value = operation.partition("=")
        arrays = [[part for array in parts for part in OPERATIONS[name](array, value)] for parts in arrays]
    for image, parts in zip(batch.images, arrays, strict=True):
        path = Path(image.output)
        paths = [path.with_stem(f"{path.stem}_{n}") for n in range(1, len(parts) + 1)] if len(parts) > 1 else [path]
        for where, array in zip(paths, parts, strict=True):
            cv2.imwrite(str(where), array, PARAMS[where.suffix])
            sync(where)
        sync(path.parent, os.O_DIRECTORY)
    return batch
