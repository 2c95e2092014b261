"""Generated code of counterfoil.audit."""
