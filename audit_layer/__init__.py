"""The audit layer: receipts in a Merkle log, sampled re-execution, cost reconciliation."""
