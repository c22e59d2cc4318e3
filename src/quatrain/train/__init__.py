"""The training loop, its optimizer and loss, checkpoints, metrics."""
