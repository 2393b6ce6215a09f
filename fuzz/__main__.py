"""python -m fuzz NAME [libFuzzer's arguments]: run a harness under atheris, its coverage guiding the bytes."""

from __future__ import annotations

import importlib
import os
import sys

import atheris

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if "core_with_libfuzzer" in os.environ.get("LD_PRELOAD", ""):
        # so that the counters of compiled code are libFuzzer's: atheris would take a second copy of its own
        sys.modules["atheris.core_without_libfuzzer"] = importlib.import_module("atheris.core_with_libfuzzer")
    with atheris.instrument_imports(include=["falconimg"]):
        harness = importlib.import_module(f"fuzz.{name}")
    atheris.Setup([f"fuzz {name}", *arguments], harness.one)
    atheris.Fuzz()
