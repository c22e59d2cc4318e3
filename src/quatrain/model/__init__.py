"""Llama 4: the maths, its cache, its files. Knows nothing of text, data or training."""
