"""A disk that is full while a test says so."""

import sqlite3


class FullDisk:
    """A double of a journal's connection: while `full`, nothing can be committed, as sqlite says it of a full disk."""

    def __init__(self, journal, *, full=True):
        self._real = journal._writer
        self.full = full
        journal._writer = self

    def execute(self, sql, *arguments):
        if self.full and sql == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._real.execute(sql, *arguments)

    def __getattr__(self, name):
        return getattr(self._real, name)
