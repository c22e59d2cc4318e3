"""Question files and plain text to packed rows of token ids. Knows nothing of the model."""
