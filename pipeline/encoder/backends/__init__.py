"""Runtimes beside torch that compute a model's token states, and the files that they compute them from."""
