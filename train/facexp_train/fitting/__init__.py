"""The training loop: batches, losses, teachers, checkpoints and the run directory."""
