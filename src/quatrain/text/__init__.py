"""Text to token ids and back: tokenizers, the chat format, French normalising."""
