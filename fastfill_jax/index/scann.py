"""Approximate search by ScaNN (Guo et al., 2020, arXiv 1908.10396), on Linux.

The gallery is partitioned by k-means; the partitions nearest to the query are
scored from 4-bit codes, trained with the paper's anisotropic loss; the best
are scored again from the float32 embeddings. How much of it there is follows
the guide that comes with ScaNN (docs/algorithms.md): below 20,000 items brute
force, below 100,000 codes alone, then √n partitions; two dimensions a code.
"""

import importlib
import math
import sys

import numpy as np

from fastfill_jax.index import base

# ScaNN's own name of the distance; its cosine is the dot of unit vectors.
_MEASURES = {'l2': 'squared_l2', 'cosine': 'dot_product'}
# Stale: the mean quantisation error has grown by this share, or the partitions'
# weighted imbalance by this much, since they were trained. With 50,000 items
# that are upserted into an unrelated space the imbalance is this large at 20%,
# where a fresh index finds 1.5 points more of the ten nearest (later 8); up to
# a rotation with cosine 0.85 both stay below, for 0.4 points.
_STALE_ERROR = 0.1
_STALE_IMBALANCE = 0.2
# Candidates that are scored again exactly, at least; 4 k if that is more.
_REORDER = 100
# Queries, and embeddings written, that a thread takes at once.
_SEARCH_BATCH = 64
_UPSERT_BATCH = 1024


def import_scann():
  """Imports ScaNN without TensorFlow, which it does not need.

  It imports TensorFlow where it finds it, and fails on a version that it was
  not built for; so there is none to be found for the duration.
  """
  hidden = sys.modules.get('tensorflow')
  sys.modules['tensorflow'] = None
  try:
    return importlib.import_module('scann').scann_ops_pybind
  except ImportError as error:
    raise ImportError(
      f'ScaNN cannot be imported on {sys.platform} ({error}); use the index '
      "'exact', or on Linux: pip install scann."
    ) from error
  finally:
    del sys.modules['tensorflow']
    if hidden is not None:
      sys.modules['tensorflow'] = hidden


class ScannIndex(base.Index):
  """ScaNN with parameters for the gallery's size when it is built.

  Args:
    distance: 'l2' or 'cosine'.
    leaves_to_search: Share of the partitions searched, in (0, 1]: recall
      against speed. The attribute may be changed between searches.
    quantise_from: Smallest gallery that is scored by codes. All codes share
      one scale: where a few embeddings are many times longer than the rest,
      recall collapses, and exact scores (a large value here) are the cure.
    partition_from: Smallest gallery that is partitioned.

  Raises:
    ImportError: If ScaNN is not installed.
    ValueError: If an argument is out of range.
  """

  def __init__(
    self,
    distance: str = 'l2',
    *,
    leaves_to_search: float = 0.05,
    quantise_from: int = 20_000,
    partition_from: int = 100_000,
  ):
    super().__init__(distance)
    if not 0 < leaves_to_search <= 1:
      raise ValueError(f'leaves_to_search={leaves_to_search} is not in (0, 1].')
    self._scann = import_scann()
    self.leaves_to_search = leaves_to_search
    self._quantise_from = quantise_from
    self._partition_from = partition_from

  def _build(self, embeddings):
    n = len(embeddings)
    builder = self._scann.builder(embeddings, 10, _MEASURES[self.distance])
    leaves = math.isqrt(n) if n >= self._partition_from else 0
    if leaves:
      builder = builder.tree(
        leaves, self._leaves(leaves), training_sample_size=min(n, 250_000)
      )
    if n >= self._quantise_from:
      # The threshold of the paper's experiments; for 'l2' it changes nothing.
      builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
      builder = builder.reorder(_REORDER)
    else:
      builder = builder.score_brute_force()
    # No docids: ScaNN's own list of them is left one too long by an upsert
    # that fails. Its rows are ours.
    self._searcher = builder.build().searcher
    self._searcher.initialize_health_stats()
    self._num_leaves = leaves
    self._trained = self._health()

  def _search(self, query, k):
    rows, distances = self._search_leaves(
      query, k, max(_REORDER, 4 * k), self._leaves(self._num_leaves)
    )
    # ScaNN pads with NaN where the leaves searched hold fewer than k items.
    short = np.isnan(distances).any(axis=1)
    if short.any():
      rows[short], distances[short] = self._search_leaves(
        query[short], k, len(self), self._num_leaves
      )
    return rows, distances

  def _search_leaves(self, query, k, reorder, leaves):
    rows, distances = self._searcher.search_batched(
      query, k, reorder, leaves or -1, True, _SEARCH_BATCH
    )
    if self.distance == 'l2':
      # Brute force expands the square, and rounds to either side of 0.
      distances = np.maximum(distances, 0)
    else:
      distances = 1 - distances
    return rows.astype(np.int64), distances

  def _write(self, rows, embeddings):
    known = len(self)
    docids = [row if row < known else None for row in rows.tolist()]
    self._searcher.upsert(docids, embeddings, _UPSERT_BATCH)

  def rebalance(self):
    """Trains anew, which takes as long as building, if stale: _STALE_ERROR."""
    health, trained = self._health(), self._trained
    if (
      health['error'] <= (1 + _STALE_ERROR) * trained['error']
      and health['imbalance'] <= trained['imbalance'] + _STALE_IMBALANCE
    ):
      return False
    self._searcher.rebalance('')
    self._trained = self._health()
    return True

  def _health(self):
    # All zero where there are no partitions; those indices do not go stale.
    stats = self._searcher.get_health_stats()
    return {
      'error': stats['avg_quantization_error'],
      'imbalance': stats['partition_weighted_avg_relative_imbalance'],
    }

  def _leaves(self, num_leaves):
    return math.ceil(self.leaves_to_search * num_leaves)
