"""Receipts held against what their node's declared hardware can do (docs/plausibility.md)."""
