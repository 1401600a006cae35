"""The index job: vectors into a structure that finds neighbours fast, and search in it."""
