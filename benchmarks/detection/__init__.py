"""How fast and how surely cheating nodes are found: this project's audits beside three published schemes, on the same answers."""
