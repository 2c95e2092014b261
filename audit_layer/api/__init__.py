"""The audit server's interfaces: gRPC for machines, HTTPS for auditors. No decisions are made here."""
