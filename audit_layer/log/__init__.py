"""The log: sequencer, tiles, publication, fsck. It knows hashes only.

Postgres is the source of truth; what the world reads are immutable files that `publication` writes.
"""
