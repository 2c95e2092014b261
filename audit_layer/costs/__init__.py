"""Money: rating, ledger, reconciliation and export. Exact arithmetic throughout; nothing here is a float."""
