"""What every process needs before it has a purpose: configuration, errors, TLS, supervision, the CLI root."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
"""gRPC's core reads this when it is first imported, whoever imports it. Its own log lines repeat what is raised, so
strangers could fill a log with them."""
