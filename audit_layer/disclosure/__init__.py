"""Disclosure: asking for one request's ciphertexts and shares, in the log's full view."""
