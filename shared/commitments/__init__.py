"""Commitments to activations and tokens: values and their comparison. No torch, no I/O."""
