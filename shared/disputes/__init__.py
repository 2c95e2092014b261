"""Games that end in one element: trees over a pass and its weights, moves, and the referee (protocol §10). Pure, without numpy."""
