"""The training step and the run of steps, on plain torch.distributed."""
