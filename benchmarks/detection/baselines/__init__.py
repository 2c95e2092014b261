"""Published schemes, written from their papers, to compare with. Nothing of the product uses them."""
