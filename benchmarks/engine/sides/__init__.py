"""The sides, one process each: `python -m benchmarks.engine.sides.NAME FOLDER THREADS`, commands and answers as JSON lines.

This package and `wire` import nothing but the standard library, so that a side can run in an environment of its own.
"""
