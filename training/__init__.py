"""Contrastive training: global batches, exact losses over gathered embeddings, and the Ray Train job."""
