"""Tests of the published corpora."""
