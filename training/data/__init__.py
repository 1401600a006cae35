"""Training rows into tokenised, composed epochs, and what each rank reads of them."""
