"""What policies may read of a gallery that is aligned and not backfilled."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fastfill_jax.methods import classifiers
from fastfill_jax.storage import arrays, artifact, splits


def readable(
  embedded: dict[str, artifact.Artifact],
  new: str,
  aligned: arrays.ShardedArray | np.ndarray,
  log_variance: arrays.ShardedArray | np.ndarray | None,
  seed: int,
  width: int | None,
) -> dict[str, Any]:
  """What policies may read before any backfilling; None: it is not there.

  Of aligned embeddings, the first `width` coordinates: `Maps.new_dim`. Where
  that is None no new classifier or embedding is compared with them.
  """
  held = {'key': jax.random.key(seed), 'log_variance': log_variance}
  if width is None:
    return held | {'aligned': aligned}
  aligned = leading(aligned, width)
  train = splits.Pairs(embedded)
  view = train.arrays([x for x in (new, 'label') if x in train])[0]
  held |= {
    'aligned': aligned,
    'train_new': view[new],
    'train_labels': view.get('label'),
  }
  classifier = classifiers.load(embedded[new])
  if classifier is None:
    return held
  kernel = classifier.kernel

  def logits(rows):
    return classifier.logits(rows.astype(np.float32))

  read = ByRow(aligned, logits, kernel.shape[1], kernel.dtype)
  return held | {'logits': read, 'class_weights': kernel}


def leading(array: Any, width: int) -> 'ByRow':
  """The leading coordinates of an array [row, coordinate].

  A map may add coordinates of its own behind the embedding's.
  """
  width = min(width, array.shape[1])
  return ByRow(array, lambda rows: rows[:, :width], width, array.dtype)


class ByRow:
  """A function of an array's rows, [row, width], computed as it is read."""

  def __init__(self, array: Any, function: Callable, width: int, dtype: Any):
    self.shape = len(array), width
    self.dtype = dtype
    self.ndim = 2
    self._array = array
    self._function = function

  def __len__(self):
    return len(self._array)

  def __getitem__(self, rows):
    return self._function(self._array[rows])
