"""Only the compiled core; everything else is in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

core = Extension(
    "falconimg._core", ["native/_core.pyx"], depends=[str(path) for path in Path("native").glob("*.px[yd]")]
)
setup(ext_modules=cythonize([core], build_dir="build"))
