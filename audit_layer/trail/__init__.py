"""The trail: statements and their index, on top of the log, which knows their hashes only."""
