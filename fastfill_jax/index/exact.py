"""Exact search by blocked matrix products, on any machine."""

import math

import numpy as np

from fastfill_jax.index import base

# Scores of one block of queries: 128 MiB of float32, allocated once a search.
_BLOCK_SCORES = 2**25


class ExactIndex(base.Index):
  """Compares every pair, in blocks of queries.

  Candidates are chosen by float32 matrix products, then ordered by distances
  computed coordinate by coordinate: equal vectors are exactly equally far, and
  the earlier row comes first.
  """

  def _build(self, embeddings):
    self._embeddings = self._with_bias(embeddings)

  def _with_bias(self, embeddings):
    # q·x - |x|²/2 orders like minus the distance: one more column.
    scale = -0.5 if self.distance == 'l2' else 0.0
    bias = scale * np.einsum('nd,nd->n', embeddings, embeddings)
    return np.concatenate([embeddings, bias[:, None]], axis=1)

  def _search(self, query, k):
    gallery = self._embeddings[: len(self)]
    query = np.pad(query, ((0, 0), (0, 1)), constant_values=1)
    # The scores of a block, then the embeddings of its candidates.
    block = max(1, _BLOCK_SCORES // max(len(gallery), k * query.shape[1]))
    block = min(block, len(query))
    scores = np.empty((block, len(gallery)), np.float32)
    rows = np.empty((len(query), k), np.int64)
    distances = np.empty((len(query), k), np.float32)
    for start in range(0, len(query), block):
      part = query[start : start + block]
      # Into the same memory each time: fresh pages cost more than the product.
      product = np.matmul(part, gallery.T, out=scores[: len(part)])
      nearest = np.sort(_largest(product, k), axis=1)
      exact = self._distance(part[:, None, :-1], gallery[nearest, :-1])
      by_distance = np.argsort(exact, axis=1, kind='stable')
      done = slice(start, start + block)
      rows[done] = np.take_along_axis(nearest, by_distance, axis=1)
      distances[done] = np.take_along_axis(exact, by_distance, axis=1)
    return rows, distances

  def _distance(self, query, embeddings):
    if self.distance == 'l2':
      difference = query - embeddings
      return np.einsum('...d,...d->...', difference, difference)
    return 1 - np.einsum('...d,...d->...', query, embeddings)

  def _write(self, rows, embeddings):
    needed = int(rows.max()) + 1
    if needed > len(self._embeddings):
      # Doubling: many small upserts copy the gallery only now and then.
      grown = np.empty((2 * needed, self._embeddings.shape[1]), np.float32)
      grown[: len(self)] = self._embeddings[: len(self)]
      self._embeddings = grown
    self._embeddings[rows] = self._with_bias(embeddings)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
  """Columns [query, k] of the k largest scores of each row, in any order.

  Every g-th column is a group: the k largest scores lie in the k groups whose
  maxima are largest. One pass finds the maxima, and only about √(k·columns)
  scores a row are selected from, twice.
  """
  columns = scores.shape[1]
  size = math.isqrt(columns // k)
  if size < 2:
    return np.argpartition(scores, columns - k, axis=1)[:, columns - k :]
  groups = columns // size
  grouped = scores[:, : size * groups].reshape(-1, size, groups)
  maxima = grouped.max(axis=1)
  best = np.argpartition(maxima, groups - k, axis=1)[:, groups - k :]
  members = best[:, None, :] + groups * np.arange(size)[:, None]
  rest = np.arange(size * groups, columns)
  rest = np.broadcast_to(rest, (len(scores), len(rest)))
  candidates = np.hstack([members.reshape(len(scores), -1), rest])
  values = np.take_along_axis(scores, candidates, axis=1)
  chosen = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
  return np.take_along_axis(candidates, chosen, axis=1)
