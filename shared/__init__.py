"""The contract between the execution layer and the audit layer; it imports neither of them."""
