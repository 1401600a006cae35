"""Commands that are more than a job: one module each, with the flags and the `main` of `tripletail <command>`."""
