"""What each arithmetic costs on this machine's processor: one product, and one pass, by every set of instructions."""
