"""A node: admits sealed requests, runs them, signs receipts and delivers them. Thin gRPC on top."""
