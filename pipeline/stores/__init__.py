"""Vectors into databases: upserts by id, deletes of what vanished, only what changed."""
