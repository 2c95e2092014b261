"""Bytes that two parties agree on: deterministic CBOR, hashing, names, money and time."""
