"""What a tenant and an operator agreed on beyond the rate card, and what that makes of a period's usage."""
