"""The audit server's faces: gRPC for machines, HTTPS for auditors. No decisions are made here."""
