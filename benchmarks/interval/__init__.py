"""How wide the interval for the overbilling of a whole invoice is (docs/cost-interval.md), by invoice size and audit rate.

Receipts bill a log-normal number of tokens (median 500, σ = 1) at one price. Either none is overbilled, or a random share
of them is overbilled whole. Every round draws anew what is overbilled and what is audited.
"""
