"""How the shipped model came to be: a seeded grammar, a tokenizer, a trainer and an evaluation."""
