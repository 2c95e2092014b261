"""A monitor: follows a log by its URL, recomputes every new entry, and keeps proof of what is wrong.

It is a separate party, run by anyone, with a small file of its own; it imports only the shared rooms.
"""
