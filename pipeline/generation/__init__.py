"""Queries made of documents, by a language model or by rules, and a language model's judgment of mined candidates."""
