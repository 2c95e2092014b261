"""Generated code of counterfoil.execution.v1."""
