"""The report of a run: its directory read and told as one page of HTML."""
