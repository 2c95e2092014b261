"""Published verification schemes, written from their papers, as published: what they do not check is not checked here either."""
