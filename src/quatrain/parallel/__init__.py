"""Several processes train one model; a single process imports nothing of this."""
