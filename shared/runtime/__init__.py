"""What every process needs before it has a purpose: configuration, errors, TLS, supervision, the CLI root."""
