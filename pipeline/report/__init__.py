"""The report of a run: one offline HTML page made of report."""
