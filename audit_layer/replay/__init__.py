"""Replay and verdicts: the work list, the worker, the judge and its process."""
