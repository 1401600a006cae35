"""What the source formats share: records, field mapping, lines, paths and splits."""
