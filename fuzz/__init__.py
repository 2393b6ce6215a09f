"""Harnesses: each `one(data)` fails where a promise does; `fuzz/run` drives them, tests replay tests/corpus."""
