"""Drills: jobs are killed and run again, and their results are compared with those of undisturbed runs."""
