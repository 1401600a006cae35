"""Metrics and significance tests: arrays in, numbers out."""
