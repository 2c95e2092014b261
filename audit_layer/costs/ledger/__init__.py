"""The double-entry ledger: journals, operations, balances."""
