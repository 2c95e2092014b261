"""The CUDA backend: passes under `fused-16` and `fused-8` (protocol §7.2.4) on NVIDIA cards, by kernels in Triton."""
