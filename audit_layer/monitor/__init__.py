"""A monitor: follows a log by its URL, recomputes every new entry, and keeps proof of what is wrong.

It is a party of its own, run by anyone, with a small file of its own; it imports the shared rooms only.
"""
