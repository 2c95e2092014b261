"""The trail: statements and their index, on top of the log, which knows only their hashes."""
