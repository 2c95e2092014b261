"""The decoder's arithmetic in C, one definition for every processor; `library` is its interface in Python."""
