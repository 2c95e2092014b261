"""What witnesses and custodians have in common as services: the beacon, its memory, and whom they believe."""
