"""Why an invoice differs from what receipts and the contract prove, and what became of the difference."""
