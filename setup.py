"""Only the compiled core; everything else is in pyproject.toml."""

from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

core = Extension("falconimg._core", ["native/_core.pyx"], depends=glob("native/*.px[yd]"))
setup(ext_modules=cythonize([core], build_dir="build"))
