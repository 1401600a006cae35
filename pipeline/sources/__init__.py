"""Corpus formats that users really have, one file each."""
