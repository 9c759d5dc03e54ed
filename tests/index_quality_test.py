"""Recall, and the sweep by an index."""

import index_cases
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fastfill_jax import index


def test_recall_by_hand():
  assert index.recall([[1, 2], [3, 4]], [[2, 9], [4, 3]]) == (1 + 2) / 4
  # The same id found for another query counts nothing.
  assert index.recall([['a'], ['b']], [['b'], ['a']]) == 0
  for bad in ([[1, 2]], [1, 2]):
    with pytest.raises(ValueError, match='are not'):
      index.recall(bad, [[1], [2]])
  with pytest.raises(ValueError, match=r'\(0, 2\) are not'):
    index.recall(np.zeros((0, 2)), np.zeros((0, 2)))


def sweep_case():
  """Queries are in the gallery; one gallery item is alone in its class."""
  rng = np.random.default_rng(0)
  new, labels = index_cases.clusters(60, 1, classes=6)
  labels[0] = 99
  ids = np.array([f'item {i}' for i in range(60)])
  return {
    'query': new[:40],
    'aligned': (new + rng.normal(size=new.shape)).astype(np.float32),
    'new': new,
    'query_labels': labels[:40],
    'gallery_labels': labels,
    'order': rng.permutation(60),
    'cutoffs': [0, 20, 20, 45, 60],
    'query_ids': ids[:40],
    'gallery_ids': ids,
  }


def test_sweep_over_everything_is_average_precision():
  case = sweep_case()
  curves = index.served_curve(index.ExactIndex(), k=59, **case)
  for i, cutoff in enumerate(case['cutoffs']):
    mixed = case['aligned'].copy()
    done = case['order'][:cutoff]
    mixed[done] = case['new'][done]
    similarity = -index_cases.oracle(case['query'], mixed, 'l2')
    precision, hits = [], []
    # The first query has no relevant item but itself.
    for j in range(1, 40):
      others = np.arange(60) != j
      relevant = case['gallery_labels'][others] == case['query_labels'][j]
      scores = similarity[j, others]
      precision.append(
        sklearn_metrics.average_precision_score(relevant, scores)
      )
      closer = (scores[~relevant] >= scores[relevant].max()).sum()
      hits.append([closer < 1, closer < 5])
    np.testing.assert_allclose(curves['mAP@59'][i], np.mean(precision), 1e-6)
    np.testing.assert_allclose(
      [curves['cmc@1'][i], curves['cmc@5'][i]], np.mean(hits, axis=0), 1e-6
    )
  np.testing.assert_array_equal(curves['recall@59'], 1)
  assert not curves['rebalanced'].any()
  assert curves['mAP@59'][0] < curves['mAP@59'][-1]


def test_sweep_by_hand():
  # On a line: the query and a copy of it at 0, then r x r x x r at 1 to 6, and
  # one more r far away.
  gallery = np.array([0, 0, 1, 2, 3, 4, 5, 6, 50.0])[:, None]
  case = {
    'query': np.zeros((1, 1)),
    'aligned': gallery,
    # The first two backfilled: the item at 2 goes to 9, the one at 6 to 1.
    'new': np.array([0, 0, 1, 9, 3, 4, 5, 1, 50.0])[:, None],
    'query_labels': ['r'],
    'gallery_labels': list('rrrxrxxrr'),
    'order': [3, 7, 0, 1, 2, 4, 5, 6, 8],
    'cutoffs': [0, 1, 9],
    'query_ids': [70],
    # Both copies are left out; four items are relevant.
    'gallery_ids': [70, 70, 1, 2, 3, 4, 5, 6, 7],
  }
  curves = index.served_curve(index.ExactIndex(), k=5, **case)
  # Retrieved: r x r x x; then r r x x r; then r r r x x, the first two tied.
  np.testing.assert_allclose(
    curves['mAP@5'],
    [(1 / 1 + 2 / 3) / 4, (1 / 1 + 2 / 2 + 3 / 5) / 4, (2 / 2 * 2 + 3 / 3) / 4],
    rtol=1e-6,
  )
  assert curves['cmc@1'].tolist() == [1, 1, 1]
  # With an id of its own it retrieves the copies, r r r x r; six are relevant.
  case['query_ids'] = [71]
  curves = index.served_curve(index.ExactIndex(), k=5, **case)
  np.testing.assert_allclose(
    curves['mAP@5'][0], (2 / 2 * 2 + 3 / 3 + 4 / 5) / min(5, 6), rtol=1e-6
  )


@index_cases.needs_scann
def test_sweep_by_scann_is_near_the_exact_one():
  new, labels = index_cases.clusters(3000, 1)
  query, query_labels = index_cases.clusters(100, 2)
  rng = np.random.default_rng(0)
  aligned = (new + 0.2 * rng.normal(size=new.shape)).astype(np.float32)
  rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
  order, cutoffs = rng.permutation(3000), [0, 1500, 3000]
  for start, rebalanced in ((aligned, False), (new @ rotation, True)):
    exact_curves, scann_curves = (
      index.served_curve(
        items,
        query,
        start,
        new,
        query_labels,
        labels,
        order,
        cutoffs,
        k=20,
        query_ids=np.arange(3000, 3100),
        gallery_ids=np.arange(3000),
      )
      for items in (
        index.ExactIndex(),
        index.ScannIndex(leaves_to_search=0.3, **index_cases.PARTITIONED),
      )
    )
    assert not scann_curves['rebalanced'][0]
    assert scann_curves['rebalanced'].any() == rebalanced
    assert scann_curves['recall@20'][-1] > 0.9
    np.testing.assert_allclose(
      scann_curves['mAP@20'][-1], exact_curves['mAP@20'][-1], atol=0.02
    )


def changed(key, change):
  return lambda case: case.update({key: change(case[key])})


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (changed('order', lambda x: x[:-1]), 'not a permutation of 0..59'),
    (changed('order', lambda x: np.append(x[:-1], x[0])), 'not a permutation'),
    (changed('query_labels', lambda x: x + 500), 'No query has a relevant'),
    (changed('query', lambda x: x[:, :3]), 'query: dimension 3'),
    (changed('new', lambda x: x[:, :3]), 'embeddings: dimension 3'),
    (changed('new', lambda x: x * np.nan), 'row 0 has squared length nan'),
    (lambda case: case.update(k=4), 'k=4 is not an integer from 5 to 59'),
    (lambda case: case.update(k=60), 'k=60 is not an integer from 5 to 59'),
  ],
)
def test_sweep_refuses(change, message):
  case = {'k': 5} | sweep_case()
  change(case)
  with pytest.raises(ValueError, match=message):
    index.served_curve(index.ExactIndex(), **case)
