"""A witness: remembers the largest checkpoint of each log it knows, and cosigns what extends it.

It is a party of its own, with its own keys and its own disk; it imports the shared rooms only.
"""
