"""Which items to embed first, with nothing but old embeddings.

random  every item with the same chance: what a forecast needs
spread  the same number from each of some cells of the old space: rare kinds
        of items are fitted too, and a forecast from it is not the gallery's
"""

from typing import Any

import numpy as np

HOWS = ('random', 'spread')
_CELLS, _SEEN = 128, 20_000
_ROWS = 65_536


def draw(
  old: Any, count: int, how: str = 'random', seed: int = 0, taken: Any = ()
) -> np.ndarray:
  """Draws items without replacement.

  Args:
    old: Array-like [item, embedding], read in blocks.
    count: How many.
    how: 'random' or 'spread'.
    seed: The same seed gives the same items.
    taken: Rows of earlier batches, not drawn again.

  Returns:
    Rows, increasing [count].

  Raises:
    ValueError: If there are not so many items left.
  """
  if how not in HOWS:
    raise ValueError(f'how={how!r}; choose of {", ".join(HOWS)}.')
  rng = np.random.default_rng((seed, len(taken)))
  left = np.setdiff1d(np.arange(len(old)), taken)
  if not 1 <= count <= len(left):
    raise ValueError(f'count={count} of {len(left)} items that are left.')
  left = rng.permutation(left)
  if how == 'random':
    return np.sort(left[:count])
  cell = _cells(old, rng)[left]
  # The n-th of every cell comes before the (n + 1)-th of any.
  order = np.argsort(cell, kind='stable')
  starts = np.searchsorted(cell[order], np.arange(_CELLS))
  turn = np.empty(len(left), np.int64)
  turn[order] = np.arange(len(left)) - starts[cell[order]]
  return np.sort(left[np.argsort(turn, kind='stable')[:count]])


def _cells(old, rng):
  """The nearest of some centres, far from each other (k-means++) [item]."""
  import sklearn.cluster

  some = np.sort(rng.permutation(len(old))[:_SEEN])
  seen = np.asarray(old[some], np.float32)
  centres, _ = sklearn.cluster.kmeans_plusplus(
    seen, min(_CELLS, len(seen)), random_state=int(rng.integers(2**31))
  )
  square = np.einsum('ce,ce->c', centres, centres) / 2
  return np.concatenate(
    [
      np.argmax(
        np.asarray(old[start : start + _ROWS], np.float32) @ centres.T - square,
        axis=1,
      )
      for start in range(0, len(old), _ROWS)
    ]
  )
