"""How surely and how soon dishonest nodes are found, beside published schemes on the same traces."""
