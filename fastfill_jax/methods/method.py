"""What a method is: a definition that can be fitted, and then maps.

There are two kinds, `closed_forms.ClosedForm` and `network.Network`. A fitted
one puts a gallery and its queries in one space, whatever it maps:

  h(old)        stored in place of an old embedding, at once
  query(new)    what is asked with
  store(new, h(old))   stored when an item is backfilled, by default query(new)

FastFill maps the gallery alone, and `query` is the identity; Drift-Adapter
maps the query into the old space, and `h` is.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastfill_jax import choices, parallel
from fastfill_jax.methods import classifiers
from fastfill_jax.storage import arrays

Array = np.ndarray
# Arrays [example, ...] by name, of every view of the training pairs.
Views = Sequence[Mapping[str, arrays.ShardedArray]]
ACTS_ON = ('gallery', 'query')


@dataclasses.dataclass(frozen=True)
class Maps:
  """A fitted method: functions of rows [row, embedding].

  Attributes:
    align: (old, side or None) -> (aligned, log_variance [row], [row, embedding]
      or None), all float32.
    query: new -> what is asked with; None for itself.
    store: (new, aligned) -> what an item becomes when it is backfilled; None
      for query(new).
    new_dim: How many leading coordinates of what is aligned are a new
      embedding, which the new classifier can read; None in another space.
  """

  align: Callable[[Array, Array | None], tuple[Array, Array | None]]
  query: Callable[[Array], Array] | None = None
  store: Callable[[Array, Array], Array] | None = None
  new_dim: int | None = None


def of_query(query: Callable[[Array], Array]) -> Maps:
  """The gallery stays as it is, and what is asked with is mapped."""
  return Maps(lambda old, side=None: (np.asarray(old, np.float32), None), query)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
  """A definition, before it is fitted.

  Attributes:
    source: Where it is from.
    module: The file that defines it, for the record of a result's code.
    acts_on: 'gallery' maps old embeddings to new ones; 'query' new to old.
  """

  source: str
  module: str
  acts_on: str = 'gallery'

  def __post_init__(self):
    choices.check('acts_on', self.acts_on, ACTS_ON)

  @property
  def reads(self) -> tuple[str, ...]:
    """Of 'side', 'label' and 'classifier', what it needs beside the pairs."""
    return ()

  @abc.abstractmethod
  def fit(
    self,
    directory,
    how: parallel.How,
    views: Views,
    classifier: classifiers.Classifier | None,
    recipe: Mapping[str, Any],
    seed: int,
  ) -> None:
    """Fits the map to pairs and writes it; resumes from what a kill left.

    Views hold 'old', 'new', and 'side' and 'label' where read; the classifier
    is the new model's.
    """

  @abc.abstractmethod
  def load(self, directory) -> Maps:
    """Reads what `fit` wrote."""
