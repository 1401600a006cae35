"""Releases: versions of an index and its model, let through by a test against the one that is in use."""
