"""Objectives over the global batch, one file each."""
