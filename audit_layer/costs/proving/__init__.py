"""From a line of an operator's invoice down to the signed receipts behind it, as a file that anyone can check offline."""
