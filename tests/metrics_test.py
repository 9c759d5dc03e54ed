"""Metrics of one query: by hand, against scikit-learn, masked and mapped."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fastfill_jax import metrics

_SIZE = 12
_precision = jax.jit(metrics.average_precision)
_cmc = jax.jit(metrics.cmc, static_argnums=2)


def _arrays(scores, relevant, where=None):
  where = np.ones(len(scores)) if where is None else where
  return (
    jnp.asarray(scores, jnp.float32),
    jnp.asarray(relevant, bool),
    jnp.asarray(where, bool),
  )


@pytest.mark.parametrize(
  ('scores', 'relevant', 'expected'),
  [
    ([4, 3, 2, 1], [1, 0, 1, 0], (1 / 1 + 2 / 3) / 2),
    ([1, 2, 3, 4], [1, 0, 1, 0], (1 / 2 + 2 / 4) / 2),
    # Everything ties: one threshold, precision 2 / 4 for both.
    ([5, 5, 5, 5], [1, 0, 1, 0], 2 / 4),
    # The second relevant item ties with an irrelevant one.
    ([3, 2, 2, 1], [1, 0, 1, 0], (1 / 1 + 2 / 3) / 2),
    ([3, 2, 2, 1], [0, 1, 1, 0], (2 / 3 + 2 / 3) / 2),
    ([7], [1], 1),
    ([1, 2], [0, 0], 0),
  ],
)
def test_average_precision_by_hand(scores, relevant, expected):
  scores, relevant, _ = _arrays(scores, relevant)
  value = _precision(scores, relevant)
  assert value == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
  ('scores', 'relevant', 'k', 'expected'),
  [
    ([4, 3, 2, 1], [0, 1, 0, 0], 1, 0),
    ([4, 3, 2, 1], [0, 1, 0, 0], 2, 1),
    # A tie with one irrelevant item is no hit at 1: the worst order counts.
    ([3, 3, 2, 1], [0, 1, 0, 0], 1, 0),
    ([3, 3, 2, 1], [0, 1, 0, 0], 2, 1),
    # The other relevant items do not push the closest one down.
    ([3, 3, 3, 1], [1, 1, 1, 0], 1, 1),
    ([1, 2], [1, 0], 9, 1),
    ([1, 2], [0, 0], 9, 0),
  ],
)
def test_cmc_by_hand(scores, relevant, k, expected):
  scores, relevant, _ = _arrays(scores, relevant)
  assert _cmc(scores, relevant, k) == expected


@hypothesis.given(
  hnp.arrays(np.float32, _SIZE, elements=st.integers(-2, 2)),
  hnp.arrays(bool, _SIZE),
  hnp.arrays(bool, _SIZE),
)
@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
def test_equal_to_the_definition_on_what_is_left(scores, relevant, where):
  precision = _precision(scores, relevant, where)
  hit = _cmc(scores, relevant, 2, where)
  if not (relevant & where).any():
    assert precision == hit == 0
    return
  expected = sklearn.metrics.average_precision_score(
    relevant[where], scores[where]
  )
  assert precision == pytest.approx(expected, abs=1e-6)
  best = scores[where & relevant].max()
  assert hit == (np.sum(scores[where & ~relevant] >= best) < 2)


def test_maps_over_queries():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 4, (5, _SIZE)).astype(np.float32)
  relevant = rng.random((5, _SIZE)) < 0.3
  where = rng.random((5, _SIZE)) < 0.8
  arrays = scores, relevant, where
  mapped = jax.jit(jax.vmap(_precision))(*arrays)
  hits = jax.jit(jax.vmap(lambda s, r, w: _cmc(s, r, 2, w)))(*arrays)
  for i, (s, r, w) in enumerate(zip(*arrays, strict=True)):
    assert mapped[i] == pytest.approx(float(_precision(s, r, w)), abs=1e-6)
    assert hits[i] == _cmc(s, r, 2, w)


def test_refuses_other_shapes_and_ranks():
  scores, relevant, where = _arrays([1, 2, 3], [1, 0, 0])
  for args in ((scores, relevant[:2]), (scores, relevant, where[:2])):
    with pytest.raises(ValueError, match=r'\[gallery\].*\(2,\)'):
      metrics.average_precision(*args)
  with pytest.raises(ValueError, match=r'\(1, 3\)'):
    metrics.average_precision(scores[None], relevant[None])
  with pytest.raises(ValueError, match='k=0'):
    metrics.cmc(scores, relevant, 0)
