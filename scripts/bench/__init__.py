"""Benchmarks of the jobs against the libraries that people use in their place."""
