"""The `evaluate` job: rank the whole corpus for every query of a split, compare models, write the report."""
