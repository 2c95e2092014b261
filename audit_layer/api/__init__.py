"""The audit layer's faces: gRPC for machines, HTTPS for auditors, commands for operators. No decisions are made here."""
