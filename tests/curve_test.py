"""The exact sweep: by hand, against the definition, and its own promises."""

import curve_cases
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fastfill_jax import curve
from fastfill_jax.curve import inputs

_BACKENDS = ('numba', 'jax')


def test_cutoffs():
  np.testing.assert_array_equal(curve.cutoffs(7, steps=1), [0, 3, 7])
  points = curve.cutoffs(10_000)
  assert len(points) == 22
  np.testing.assert_array_equal(points, [i * 10_000 // 21 for i in range(22)])
  np.testing.assert_array_equal(curve.cutoffs(1, steps=2), [0, 0, 0, 1])
  np.testing.assert_array_equal(curve.cutoffs(5, steps=0), [0, 5])


# On a line: the query at 0, relevant items at 1 and 4, others at 2 and 3. The
# aligned gallery has the first relevant item at 6 and one other at 1.
_HAND = {
  'query': [[0.0]],
  'aligned': [[6.0], [4.0], [1.0], [3.0]],
  'new': [[1.0], [4.0], [2.0], [3.0]],
  'query_labels': [0],
  'gallery_labels': [0, 0, 1, 1],
  'orders': [[0, 1, 2, 3], [2, 3, 1, 0]],
  'cutoffs': [0, 1, 3],
}


@pytest.mark.parametrize('backend', _BACKENDS)
def test_by_hand(backend):
  result = curve.sweep(**_HAND, backend=backend)
  start = (1 / 3 + 2 / 4) / 2
  # At cut-off 1 of the first order, item 0 ties with the other one at 1.
  tie, end = (1 / 2 + 2 / 4) / 2, (1 / 1 + 2 / 4) / 2
  np.testing.assert_allclose(
    result['mAP'], [[start, tie, end], [start] * 3], atol=1e-7
  )
  np.testing.assert_array_equal(result['cmc@1'], [[0, 0, 1], [0, 0, 0]])
  np.testing.assert_array_equal(result['cmc@5'], np.ones((2, 3)))
  assert result['num_queries'] == 1
  assert np.isnan(result['standard_error']['mAP']).all()
  assert 'per_query' not in result


@hypothesis.given(
  st.integers(0, 10**6),
  st.integers(1, 6),
  st.integers(1, 30),
  st.integers(1, 4),
  st.sampled_from(inputs.DISTANCES),
  st.booleans(),
)
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
def test_equals_scikit_learn(seed, queries, size, classes, distance, ids):
  case = curve_cases.make(seed, queries=queries, size=size, classes=classes)
  rng = np.random.default_rng(seed)
  if ids:
    case['query_ids'] = rng.integers(0, size, queries)
    case['gallery_ids'] = rng.integers(0, size, size)
  case['cutoffs'] = rng.integers(0, size + 1, 3)
  expected = curve_cases.per_query(case, distance)
  counted = np.isfinite(expected['mAP'][0, 0])
  case |= {'backend': 'numba', 'distance': distance, 'per_query': True}
  if not counted.any():
    with pytest.raises(ValueError, match='No query has a relevant item'):
      curve.sweep(**case)
    return
  result = curve.sweep(**case)
  assert result['num_queries'] == counted.sum()
  for metric, values in expected.items():
    np.testing.assert_allclose(result['per_query'][metric], values, atol=1e-6)
    mean = values[..., counted].mean(axis=-1)
    np.testing.assert_allclose(result[metric], mean, atol=1e-9)


# Compiling takes JAX seconds for each shape: few shapes, many values.
@hypothesis.given(st.integers(0, 10**6), st.sampled_from(inputs.DISTANCES))
@hypothesis.settings(deadline=None, max_examples=30, derandomize=True)
def test_jax_equals_scikit_learn(seed, distance):
  case = curve_cases.make(seed)
  ids = np.random.default_rng(0).integers(0, 20, 31)
  case |= {'query_ids': ids[:7], 'gallery_ids': ids[7:]}
  case['query_labels'][:] = np.arange(7) % 3
  case['gallery_labels'][:] = np.arange(24) % 3
  expected = curve_cases.per_query(case, distance)
  case |= {'backend': 'jax', 'distance': distance, 'per_query': True}
  result = curve.sweep(**case)
  for metric, values in expected.items():
    np.testing.assert_allclose(result['per_query'][metric], values, atol=1e-6)
    np.testing.assert_allclose(result[metric], values.mean(-1), atol=1e-6)


@pytest.mark.parametrize('backend', _BACKENDS)
def test_classes_of_all_sizes(backend):
  # 1, 2, 4, .. 32 items of a class, and queries that have none.
  sizes = 2 ** np.arange(6)
  labels = np.repeat(np.arange(6), sizes)
  case = curve_cases.make(1, queries=9, size=sizes.sum())
  case |= {'gallery_labels': labels, 'query_labels': np.arange(9) - 1}
  expected = curve_cases.per_query(case)
  result = curve.sweep(**case, backend=backend, per_query=True)
  for metric, values in expected.items():
    np.testing.assert_allclose(result['per_query'][metric], values, atol=1e-6)
  assert result['num_queries'] == 6


def test_standard_errors():
  case = curve_cases.make(2, queries=12)
  result = curve.sweep(**case, backend='numba', per_query=True)
  for metric in curve.METRICS:
    values = result['per_query'][metric].astype(np.float64)
    scale = np.sqrt(values.shape[-1])
    np.testing.assert_allclose(
      result['standard_error'][metric],
      values.std(axis=-1, ddof=1) / scale,
      atol=1e-6,
    )
    np.testing.assert_allclose(
      result['area_standard_error'][metric],
      values.mean(axis=1).std(axis=-1, ddof=1) / scale,
      atol=1e-6,
    )


def test_starts_aligned_and_ends_new():
  case = curve_cases.make(3)
  result = curve.sweep(**case)
  for point, name in ((0, 'aligned'), (-1, 'new')):
    rows = case[name]
    end = curve.sweep(**(case | {'aligned': rows, 'new': rows, 'cutoffs': [5]}))
    for metric in curve.METRICS:
      np.testing.assert_array_equal(result[metric][:, point], end[metric][:, 0])


def test_permuting_the_gallery_changes_nothing():
  case = curve_cases.make(4, size=40)
  case |= {'gallery_ids': np.arange(40) % 30, 'query_ids': np.arange(7)}
  place = np.random.default_rng(0).permutation(40)
  moved = {
    name: case[name][place]
    for name in ('aligned', 'new', 'gallery_labels', 'gallery_ids')
  }
  moved['orders'] = np.argsort(place)[case['orders']]
  curve_cases.assert_equal(
    curve.sweep(**case, backend='numba'),
    curve.sweep(**(case | moved), backend='numba'),
  )


def test_permuting_policies_and_cutoffs_permutes_the_curves():
  case = curve_cases.make(5)
  result = curve.sweep(**case)
  points = [3, 0, 3, 1]
  other = curve.sweep(
    **(
      case
      | {'orders': case['orders'][::-1], 'cutoffs': case['cutoffs'][points]}
    )
  )
  np.testing.assert_array_equal(other['mAP'], result['mAP'][::-1][:, points])


@pytest.mark.parametrize('backend', _BACKENDS)
@pytest.mark.parametrize('distance', inputs.DISTANCES)
def test_equal_vectors_tie_wherever_they_are(backend, distance):
  # Every vector twice, once with the query's label, once with another: the
  # closest relevant item always ties with one irrelevant item.
  case = curve_cases.make(6, size=61, dim=37, real=True)
  rows = {name: np.concatenate([case[name]] * 2) for name in ('aligned', 'new')}
  case |= rows | {
    'query_labels': np.zeros(7, int),
    'gallery_labels': np.arange(122) // 61,
    'orders': np.arange(122)[None],
    'cutoffs': [0, 122],
    'distance': distance,
    'backend': backend,
    'per_query': True,
  }
  result = curve.sweep(**case)
  np.testing.assert_allclose(result['mAP'], 0.5, atol=1e-7)
  np.testing.assert_array_equal(result['cmc@1'], 0)
  # And an item that is the same in both states never moves.
  flat = curve.sweep(
    **(case | {'aligned': case['new'], 'gallery_labels': np.arange(122) % 2})
  )
  for values in flat['per_query'].values():
    np.testing.assert_array_equal(values[:, 0], values[:, 1])


def test_minus_zero_is_zero():
  case = curve_cases.make(7)
  case['new'] = np.where(case['aligned'] == 0, -0.0, case['aligned'])
  assert np.signbit(case['new'][case['new'] == 0]).all()
  problem = curve_cases.prepare(case)
  np.testing.assert_array_equal(problem.sources[:24], problem.sources[24:])
  assert len(problem.states) == 1


def test_1001_cutoffs():
  case = curve_cases.make(9, size=90)
  few = curve.sweep(**(case | {'cutoffs': [0, 45, 90]}), backend='numba')
  many = case | {'cutoffs': curve.cutoffs(90, steps=999)}
  for backend in _BACKENDS:
    result = curve.sweep(**many, backend=backend)
    assert result['mAP'].shape == (2, 1001)
    np.testing.assert_allclose(
      result['mAP'][:, [0, 500, 1000]], few['mAP'], atol=1e-6
    )
