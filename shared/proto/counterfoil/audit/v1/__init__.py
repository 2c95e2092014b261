"""Generated code of counterfoil.audit.v1."""
