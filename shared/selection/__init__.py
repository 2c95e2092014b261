"""The beacon and the sampling rule: auditors draw by them, and custodians and anyone else check the draw."""
