"""Data sets, subsets, augmentation and deterministic batches."""
