"""The beacon and the sampling rule: auditors draw by it, custodians and anyone else check it."""
