"""Sealed requests, sealed responses, escrow shares: protocol §3 and §4."""
