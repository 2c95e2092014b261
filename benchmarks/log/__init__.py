"""The log: how fast it takes statements in, how fast it proves them, and whether that lasts as it grows."""
