"""What the benchmarks share: the machine's facts, random checkpoints, medians with their spread, marks in tables."""
