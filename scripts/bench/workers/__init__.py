"""One measurement of a benchmark in a process of its own."""
