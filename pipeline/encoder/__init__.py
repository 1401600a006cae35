"""Text to vector: the encoder and everything that makes it fast, saved, exported or distilled."""
