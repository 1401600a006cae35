"""Mining hard negatives: the rules, the search, scores of rerankers, and the job."""
