"""A witness: remembers the largest checkpoint of each log it knows, and cosigns what extends it.

It is a separate party, with its own keys and its own disk; it imports only the shared rooms.
"""
