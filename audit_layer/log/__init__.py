"""The log: sequencer, tiles, publication, fsck. It knows only hashes.

Postgres is the source of truth; the world reads immutable files that `publication` writes.
"""
