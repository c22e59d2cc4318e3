"""The report of a run: its directory as one HTML page."""
