"""Cases for the sweep's tests, and what the definition says about them."""

import numpy as np
import sklearn.metrics

from fastfill_jax.curve import inputs

METRICS = ('mAP', 'cmc@1', 'cmc@5')


def make(
  seed=0, *, queries=7, size=24, dim=3, classes=4, policies=2, real=False
):
  """Arguments of `curve.sweep`, with many ties unless `real`."""
  rng = np.random.default_rng(seed)

  def embed(rows):
    if real:
      return rng.standard_normal((rows, dim)).astype(np.float32)
    return rng.integers(-2, 3, (rows, dim)).astype(np.float32)

  new = embed(size)
  stays = rng.random((size, 1)) < 0.3
  return {
    'query': embed(queries),
    'aligned': np.where(stays, new, embed(size)),
    'new': new,
    'query_labels': rng.integers(0, classes, queries),
    'gallery_labels': rng.integers(0, classes, size),
    'orders': np.stack([rng.permutation(size) for _ in range(policies)]),
    'cutoffs': np.array([0, size // 3, size // 2, size]),
  }


def prepare(case):
  """The case as the backends take it."""
  case = dict(case)
  labels = case.pop('query_labels'), case.pop('gallery_labels')
  return inputs.prepare(**case, labels=labels, distance='l2', ids=(None, None))


def same(case, ids):
  """The case's gallery is its queries too."""
  return case | {
    'query': case['new'],
    'query_labels': case['gallery_labels'],
    'query_ids': ids,
    'gallery_ids': ids,
  }


def scores(query, gallery, distance):
  """float32 as the sweep defines them; [gallery].

  Small integers have exact products: the rounding is the scaling's alone.
  """
  product = (gallery.astype(np.float64) @ query).astype(np.float32)
  square = np.sum(gallery.astype(np.float64) ** 2, axis=1)
  if distance == 'l2':
    return product - (square / 2).astype(np.float32)
  return product * (1 / np.sqrt(np.maximum(square, 1))).astype(np.float32)


def of_query(scores, relevant):
  """Average precision, CMC@1 and CMC@5 of one query."""
  before = np.sum(scores[~relevant] >= scores[relevant].max())
  precision = sklearn.metrics.average_precision_score(relevant, scores)
  return precision, float(before < 1), float(before < 5)


def per_query(case, distance='l2'):
  """{metric: [policy, cutoff, query]}, one query and cut-off after another."""
  case = {'query_ids': None, 'gallery_ids': None} | case
  queries = len(case['query'])
  shape = len(case['orders']), len(case['cutoffs']), queries
  values = np.full((3, *shape), np.nan)
  for policy, cutoff, query in np.ndindex(shape):
    done = case['orders'][policy][: case['cutoffs'][cutoff]]
    mixed = case['aligned'].copy()
    mixed[done] = case['new'][done]
    left = np.ones(len(mixed), bool)
    if case['gallery_ids'] is not None:
      left = case['gallery_ids'] != case['query_ids'][query]
    relevant = case['gallery_labels'] == case['query_labels'][query]
    if (relevant & left).any():
      score = scores(case['query'][query], mixed, distance)
      values[:, policy, cutoff, query] = of_query(score[left], relevant[left])
  return dict(zip(METRICS, values, strict=True))


def assert_close(result, other, tolerance):
  for metric in METRICS:
    np.testing.assert_allclose(
      result[metric], other[metric], rtol=0, atol=tolerance, err_msg=metric
    )


def assert_equal(result, other):
  for group in (lambda x: x, lambda x: x['standard_error']):
    assert_close(group(result), group(other), 0)
