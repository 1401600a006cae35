"""The modules that follow pooling in a model directory: vectors into vectors, one kind a file."""
