"""The published corpora of the recipes: where each lies, and how its files become the tables that a recipe reads."""
