"""What the benchmarks share: facts about the machine, random checkpoints, medians with their spread, marks in tables."""
