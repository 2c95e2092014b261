"""Generated code of counterfoil.execution."""
