"""What policies may read of a gallery that is aligned and not backfilled."""

from typing import Any

import jax
import numpy as np

from fastfill_jax.methods import classifiers
from fastfill_jax.storage import arrays, artifact, splits


def readable(
  embedded: dict[str, artifact.Artifact],
  new: str,
  aligned: arrays.ShardedArray,
  log_variance: arrays.ShardedArray | None,
  seed: int,
  width: int | None,
) -> dict[str, Any]:
  """What policies may read before any backfilling; None where not there.

  Of aligned embeddings, the first `width` coordinates: `Maps.new_dim`. Where
  that is None no new classifier or embedding is compared with them.
  """
  if width is None:
    return {
      'key': jax.random.key(seed),
      'aligned': aligned,
      'log_variance': log_variance,
    }
  aligned = Leading(aligned, width)
  classifier = classifiers.load(embedded[new])
  train = splits.Pairs(embedded)
  view = train.arrays([x for x in (new, 'label') if x in train])[0]
  return {
    'key': jax.random.key(seed),
    'aligned': aligned,
    'log_variance': log_variance,
    'logits': None if classifier is None else _Logits(classifier, aligned),
    'class_weights': None if classifier is None else classifier.kernel,
    'train_new': view[new],
    'train_labels': view.get('label'),
  }


class Leading:
  """The leading coordinates of an array [row, coordinate], cut as it is read.

  A map may add coordinates of its own behind the embedding's.
  """

  def __init__(self, array: Any, width: int):
    self.shape = len(array), min(width, array.shape[1])
    self.dtype = array.dtype
    self.ndim = 2
    self._array = array

  def __len__(self):
    return len(self._array)

  def __getitem__(self, rows):
    return self._array[rows][:, : self.shape[1]]


class _Logits:
  """The new classifier on aligned, [gallery, class], computed as it is read."""

  def __init__(self, classifier: classifiers.Classifier, aligned):
    self.shape = len(aligned), classifier.kernel.shape[1]
    self._classifier = classifier
    self._aligned = aligned

  def of(self, aligned) -> '_Logits':
    """The same classifier on other embeddings."""
    return _Logits(self._classifier, aligned)

  def __len__(self):
    return len(self._aligned)

  def __getitem__(self, rows):
    return self._classifier.logits(self._aligned[rows].astype(np.float32))
