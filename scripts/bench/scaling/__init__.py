"""Formulas of what each job does at a size, for `scripts.bench.scale`."""
