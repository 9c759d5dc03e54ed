"""Results, arrays and checkpoints on disk."""
