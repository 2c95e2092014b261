"""Budgets of tenants: what is spent of them, what the month will come to, and alerts."""
