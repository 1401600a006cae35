"""What the formats share: records, field mapping, lines, paths."""
