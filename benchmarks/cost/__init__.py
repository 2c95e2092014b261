"""A month of receipts: what metering to export costs, and whether every planted fault is found."""
