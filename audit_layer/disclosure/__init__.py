"""Disclosure: asking for one request's ciphertexts and shares, in full view of the log."""
