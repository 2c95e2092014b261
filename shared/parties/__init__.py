"""What witnesses and custodians share as services: the beacon, its memory, and whom they believe."""
