"""Generated code of the counterfoil.* packages."""
