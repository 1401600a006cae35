"""Bytes at rest: files on any store, artifacts with a manifest, shards, vectors, and the shuffle between tasks."""
