"""Transparency-log arithmetic, pure: the tree, proofs, tiles, notes, checkpoints, policies.

Formats are C2SP (tlog-tiles, tlog-checkpoint, tlog-cosignature, tlog-witness, tlog-proof,
signed-note) and RFC 9942 (COSE Receipts); the tree is RFC 6962's over SHA-256.
"""
