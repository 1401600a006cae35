"""A look at what a job left: counts, losses, lengths, repetitions, rows."""
