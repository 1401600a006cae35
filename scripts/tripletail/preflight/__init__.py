"""The preflight of a run: every section of its recipe against the files, models and disk that are there, in seconds."""
