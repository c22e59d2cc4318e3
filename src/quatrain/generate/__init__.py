"""Prompt ids to answer ids, then text: sampling, the decoding loop, the Answerer."""
