"""Held-out loss, and generated answers scored by exact match and F1."""
