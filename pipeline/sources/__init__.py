"""Readers of corpora, one file for each format; `registry.py` lists them, `reading/` holds what they share."""
