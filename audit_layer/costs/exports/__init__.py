"""Exports that finance uses: FOCUS, spreadsheets, journals for the general ledger; pure writers over charges."""
