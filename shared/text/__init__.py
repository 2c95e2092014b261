"""Text: tokenizer, chat template, streaming decoding, stop strings. No torch."""
