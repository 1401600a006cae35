"""Contrastive training of sentence-embedding models on Ray, as a command and from Python."""
