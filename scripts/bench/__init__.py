"""Benchmarks beside peers."""
