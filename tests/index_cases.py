"""Galleries, and what an exact search would say, for the tests of indices."""

import importlib.util

import numpy as np
import pytest

needs_scann = pytest.mark.skipif(
  importlib.util.find_spec('scann') is None, reason='no wheels of ScaNN here'
)
BACKENDS = ['exact', pytest.param('scann', marks=needs_scann)]
# Small galleries, yet searched as large ones are.
PARTITIONED = {'quantise_from': 0, 'partition_from': 0}
# Every way in which an index works inside: a backend and its options.
VARIANTS = [
  ('exact', {}),
  *(
    pytest.param('scann', options, marks=needs_scann)
    for options in (
      {},
      {'quantise_from': 0},
      {'partition_from': 0},
      PARTITIONED,
    )
  ),
]


def clusters(rows, seed, classes=40, dim=16):
  """Embeddings [row, embedding] around shared class means, labels [row]."""
  rng = np.random.default_rng(seed)
  means = np.random.default_rng(0).normal(size=(classes, dim))
  labels = rng.integers(classes, size=rows)
  embeddings = means[labels] + 0.3 * rng.normal(size=(rows, dim))
  return embeddings.astype(np.float32), labels


def gallery_and_query(rows, queries):
  """Embeddings [gallery, embedding] and [query, embedding]."""
  return clusters(rows, 1)[0], clusters(queries, 2)[0]


def oracle(query, gallery, distance):
  """All distances [query, gallery], in float64."""
  query, gallery = query.astype(np.float64), gallery.astype(np.float64)
  if distance == 'l2':
    return ((query[:, None] - gallery) ** 2).sum(-1)
  unit = [
    x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)
  ]
  return 1 - unit[0] @ unit[1].T


def assert_same_answers(a, b, query, k):
  (ids, distances), (other_ids, other_distances) = (
    each.search(query, k) for each in (a, b)
  )
  np.testing.assert_array_equal(ids, other_ids)
  # ScaNN's last bit depends on where in memory a vector lies.
  np.testing.assert_allclose(distances, other_distances, rtol=1e-5, atol=1e-5)
