"""What every process needs before it has a purpose: configuration, errors, TLS, supervision, the CLI root."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
"""The core of gRPC reads it when it is first imported, by whomever: its own lines repeat what is raised, and strangers
could fill a log with them."""
