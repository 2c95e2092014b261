"""What is audited: the authority's epochs, the beacon's draw, and the tenant seals."""
