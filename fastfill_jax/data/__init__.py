"""Data sets, subsets, augmentation and deterministic batches."""

from fastfill_jax.data.loading import batches_in_order, loader
from fastfill_jax.data.opening import is_prepared, open_source
from fastfill_jax.data.pixels import decode, normalise
from fastfill_jax.data.sources import Source
from fastfill_jax.data.subsets import (
  group_of_class,
  read_groups,
  select,
  split_validation,
)
from fastfill_jax.data.transforms import TRANSFORMS, make_transform

__all__ = [
  'TRANSFORMS',
  'Source',
  'batches_in_order',
  'decode',
  'group_of_class',
  'is_prepared',
  'loader',
  'make_transform',
  'normalise',
  'open_source',
  'read_groups',
  'select',
  'split_validation',
]
