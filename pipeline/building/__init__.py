"""The build job: sources into the tables corpus, queries, qrels, pairs, triplets and labelled."""
