"""The new model's frozen classifier, as methods and policies read it."""

import dataclasses
from typing import Any

import numpy as np

from fastfill_jax.models import heads
from fastfill_jax.storage import artifact


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The new model's frozen classifier: a head, and W_new [embedding, class]."""

  head: Any
  kernel: np.ndarray

  def logits(self, embedding: np.ndarray) -> np.ndarray:
    """[row, class] of [row, embedding]."""
    params = {'params': {'kernel': self.kernel}}
    return np.asarray(self.head.apply(params, embedding))


def load(embedded: artifact.Artifact) -> Classifier | None:
  """The classifier of an embedded encoder; None if it has none."""
  head = artifact.read_json(embedded.directory / 'head.json')
  if not head or head['name'] == 'projection':
    return None
  held = artifact.load_variables(embedded.directory / 'head.msgpack')
  return Classifier(heads.make_head(**head), held['kernel'])
