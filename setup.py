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
        # the pixel kernels are written for -O3's vectorizer; what debuggers read is a quarter of the compiler's time
        extra_compile_args=["-O3", *([] if "CFLAGS" in os.environ else ["-g0"])],
    )
    for source in sorted(NATIVE.glob("*.pyx"))
]
setup(
    ext_modules=cythonize(modules, build_dir="build"),
    options={"build_ext": {"parallel": os.cpu_count()}},  # the modules side by side
)
