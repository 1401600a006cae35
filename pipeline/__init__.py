"""Text in, artifacts out: sources, pairs, triplets, negatives, vectors and evaluation, as Ray jobs."""

__version__ = "0.1.0"
