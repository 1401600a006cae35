"""The embedding job: texts into shards of vectors, in several formats, only what is missing."""
