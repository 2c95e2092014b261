"""What is signed: orders, receipts, key bundles, verdicts, disclosures, seals, rate cards."""
