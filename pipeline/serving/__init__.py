"""Vectors and search over HTTP, by replicas on Ray Serve."""
