"""Llama 4: the network, its cache, its files. Knows nothing of text, data or training."""
