"""Text to token ids and back: tokenizers, the prompt contract, French normalising."""
