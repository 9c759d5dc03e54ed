"""Judgements and neighbours through the sweep, against other libraries."""

import curve_cases
import ir_measures
import numpy as np
import pytest

from fastfill_jax import curve
from fastfill_jax.curve import ranking

_METRICS = ('mAP', 'ndcg@10', 'mrr@10', 'recall@5')
_ORACLE = {
  'mAP': ir_measures.AP,
  'ndcg@10': ir_measures.nDCG @ 10,
  'mrr@10': ir_measures.RR @ 10,
  'recall@5': ir_measures.R @ 5,
}


def _case(seed=0, queries=9, size=40):
  case = curve_cases.make(seed, queries=queries, size=size, real=True)
  rng = np.random.default_rng(seed + 100)
  grades = rng.integers(0, 4, (queries, size)) * (rng.random(size) < 0.4)
  grades[0] = 0  # A query without a relevant item.
  relevant = np.stack(np.nonzero(grades))
  shuffled = rng.permutation(relevant.shape[1])
  case = {k: v for k, v in case.items() if 'labels' not in k}
  return case | {
    'relevant': relevant[:, shuffled],
    'grades': grades[tuple(relevant)][shuffled],
  }


def _scores(query, gallery, distance='l2'):
  if distance == 'l2':
    return gallery @ query - np.sum(gallery**2, axis=1) / 2
  return gallery @ query / np.linalg.norm(gallery, axis=1)


def _mixed(case, policy, cutoff):
  done = case['orders'][policy][: case['cutoffs'][cutoff]]
  mixed = case['aligned'].copy()
  mixed[done] = case['new'][done]
  return mixed


@pytest.mark.parametrize('distance', ['l2', 'cosine'])
def test_judgements_give_what_trec_eval_gives(distance):
  case = _case()
  values = ranking.sweep(**case, metrics=_METRICS, distance=distance)
  pairs = zip(*case['relevant'], case['grades'], strict=True)
  qrels = [ir_measures.Qrel(f'q{q}', f'd{i}', int(g)) for q, i, g in pairs]
  for policy, cutoff in np.ndindex(2, 4):
    mixed = _mixed(case, policy, cutoff)
    run = [
      ir_measures.ScoredDoc(f'q{q}', f'd{i}', float(score))
      for q, query in enumerate(case['query'])
      for i, score in enumerate(_scores(query, mixed, distance))
    ]
    for metric, measure in _ORACLE.items():
      expected = np.full(9, np.nan)
      for one in ir_measures.iter_calc([measure], qrels, run):
        expected[int(one.query_id[1:])] = one.value
      np.testing.assert_allclose(
        values[metric][policy, cutoff], expected, atol=1e-6, err_msg=metric
      )


def test_labels_as_lists_give_the_labels_curve():
  case = curve_cases.make(3, queries=12, size=30)
  case = curve_cases.same(case, np.arange(30))
  labels = case.pop('gallery_labels')
  case.pop('query_labels')
  relevant = np.stack(np.nonzero(labels[:, None] == labels[None]))
  listed = ranking.sweep(
    **case,
    relevant=relevant,
    grades=np.ones(relevant.shape[1]),
    metrics=('mAP', 'recall@3'),
  )
  swept = curve.sweep(
    **case, query_labels=labels, gallery_labels=labels, per_query=True
  )
  np.testing.assert_array_equal(listed['mAP'], swept['per_query']['mAP'])
  # Oneself is left out of the count of relevant items, too.
  query = int(np.argmax(np.bincount(labels)[labels] > 1))
  score = curve_cases.scores(case['query'][query], case['aligned'], 'l2')
  score[query] = -np.inf
  mine = np.flatnonzero((labels == labels[query]) & (np.arange(30) != query))
  hits = [np.sum(score >= score[item]) <= 3 for item in mine]
  assert listed['recall@3'][0, 0, query] == np.float32(np.mean(hits))


def test_agreement_is_overlap_of_the_lists():
  case = _case(5)
  reference = ranking.neighbours(case['query'], case['new'], 8)
  case['relevant'] = np.stack([np.repeat(np.arange(9), 8), reference.ravel()])
  case['grades'] = np.tile(np.arange(1, 9), 9)
  values = ranking.sweep(**case, metrics=('overlap@3', 'rbo@0.5'))
  for policy, cutoff, query in np.ndindex(2, 4, 9):
    mixed = _mixed(case, policy, cutoff)
    score = _scores(case['query'][query], mixed)
    found = np.argsort(-score)[:8]
    shared = [
      len(set(found[:d]) & set(reference[query, :d])) / d for d in range(1, 9)
    ]
    weights = 0.5 ** np.arange(8)
    place = policy, cutoff, query
    np.testing.assert_allclose(values['overlap@3'][place], shared[2], rtol=1e-6)
    np.testing.assert_allclose(
      values['rbo@0.5'][place], np.average(shared, weights=weights), rtol=1e-6
    )
  # Everything backfilled is what it is compared with.
  np.testing.assert_array_equal(values['overlap@3'][:, -1], 1)
  np.testing.assert_allclose(values['rbo@0.5'][:, -1], 1, rtol=1e-6)


def test_ranks_by_hand():
  # Items at 1, 2, 3, 4; aligned, the item at 1 is at 5. One query, at 0.
  positions = np.array([[1.0], [2.0], [3.0], [4.0]])
  aligned = np.array([[5.0], [2.0], [3.0], [4.0]])
  values = ranking.sweep(
    np.zeros((1, 1)),
    aligned,
    positions,
    np.array([[0, 0], [0, 2]]),
    np.array([3, 1]),
    np.array([[0, 1, 2, 3]]),
    np.array([0, 1]),
    metrics=('ndcg@2', 'mrr@3', 'mAP', 'recall@2'),
  )
  best = 3 / np.log2(2) + 1 / np.log2(3)
  # First at ranks 4 and 2, then at 1 and 3.
  expected = {
    'ndcg@2': [1 / np.log2(3) / best, 3 / best],
    'mrr@3': [1 / 2, 1],
    'mAP': [(1 / 2 + 2 / 4) / 2, (1 + 2 / 3) / 2],
    'recall@2': [1 / 2, 1 / 2],
  }
  for metric, value in expected.items():
    np.testing.assert_allclose(values[metric][0, :, 0], value, rtol=1e-6)


def test_blocks_change_nothing():
  case = _case(6, queries=30, size=60)
  whole = ranking.sweep(**case, metrics=_METRICS)
  parts = ranking.sweep(**case, metrics=_METRICS, memory_limit=9_000)
  for metric in _METRICS:
    np.testing.assert_array_equal(whole[metric], parts[metric])


@pytest.mark.parametrize('distance', ['l2', 'cosine'])
def test_neighbours_in_blocks(distance):
  rng = np.random.default_rng(0)
  query, gallery = rng.standard_normal((5, 3)), rng.standard_normal((50, 3))
  ids = np.arange(50)
  found = ranking.neighbours(
    query,
    gallery,
    4,
    distance=distance,
    query_ids=ids[:5],
    gallery_ids=ids,
    block=64,
  )
  for row, near in enumerate(found):
    score = _scores(query[row], gallery, distance)
    score[row] = -np.inf
    np.testing.assert_array_equal(near, np.argsort(-score)[:4])


@pytest.mark.parametrize(
  'change, message',
  [
    ({'metrics': ['ndgc@10']}, "did you mean 'ndcg'"),
    ({'metrics': ['recall@0']}, 'at least 1'),
    ({'metrics': ['recall']}, 'is not a metric'),
    ({'grades': np.zeros(3)}, 'positive'),
    ({'relevant': np.array([[0, 1], [2, 90]])}, r'not in \[0, 40\)'),
    ({'relevant': np.array([[0, 0], [2, 2]])}, 'query 0 with item 2 twice'),
    ({'cutoffs': np.array([3, 1])}, 'increasing'),
  ],
)
def test_wrong_arguments(change, message):
  case = _case() | {'metrics': ['mAP']} | change
  if 'relevant' in change:
    case['grades'] = np.ones(2)
  with pytest.raises(ValueError, match=message):
    ranking.sweep(**case)
