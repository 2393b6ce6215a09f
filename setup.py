"""Only the compiled modules; everything else is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = Path("native")

modules = [
    Extension(
        f"falconimg.{source.stem}",
        [str(source)],
        depends=[str(path) for path in NATIVE.iterdir()],
        extra_compile_args=["-O3"],  # the pixel kernels are written for its vectorizer
    )
    for source in sorted(NATIVE.glob("*.pyx"))
]
setup(
    ext_modules=cythonize(modules, build_dir="build"),
    options={"build_ext": {"parallel": os.cpu_count()}},  # the modules side by side
)
