"""Kill jobs and compare what comes out."""
