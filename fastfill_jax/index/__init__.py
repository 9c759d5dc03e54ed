"""Nearest neighbours in a gallery that is overwritten while it is searched.

`ExactIndex` compares every pair, anywhere; `ScannIndex` approximates, on
Linux. Both are an `Index`: build, then search and upsert, one thread at a
time. A search returns distances, smaller is closer: squared Euclidean for
'l2', 1 - cosine similarity for 'cosine'.
"""

from absl import logging

from fastfill_jax import choices
from fastfill_jax.index import base, exact, quality, scann

Index = base.Index
ExactIndex = exact.ExactIndex
ScannIndex = scann.ScannIndex
recall = quality.recall
served_curve = quality.served_curve

NAMES = ('auto', 'exact', 'scann')


def make_index(name: str = 'auto', distance: str = 'l2', **options) -> Index:
  """Makes an empty index; 'auto' is ScaNN where it is installed, else exact.

  Options are ScannIndex's; an exact search has no use for them.

  Raises:
    ImportError: If ScaNN is asked for by name and not installed.
    ValueError: If the name, the distance or an option's value is unknown.
  """
  choices.check('index', name, NAMES)
  if name == 'exact':
    return ExactIndex(distance)
  try:
    return ScannIndex(distance, **options)
  except ImportError as error:
    if name == 'scann':
      raise
    logging.info('Searching exactly: %s', error)
    return ExactIndex(distance)
