"""Hostile evidence that gets behind the hashes and signatures: re-encoded, re-sealed, re-hashed and re-signed."""
