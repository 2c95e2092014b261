"""A custodian: holder of one escrow share per request, opened only for a draw that it can recompute."""
