"""Dishonest parties for tests and the demonstration: ordinary programs, wrapped. The product knows nothing of them."""
