"""Whether a GPU computes what is defined, and how fast: `python -m benchmarks.gpu` (docs/benchmarks-gpu.md).

It needs a checkout, torch, Triton and numpy; nothing has to be installed besides.
"""
