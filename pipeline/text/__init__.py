"""Pure rules for text: normal form, keys and hashes, for one text and for Arrow columns."""
