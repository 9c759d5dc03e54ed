"""What every index promises, and the exact one."""

import hypothesis
import index_cases
import numpy as np
import pytest
from hypothesis import strategies as st

from fastfill_jax import index
from fastfill_jax.index import base, exact


@pytest.mark.parametrize('backend', index_cases.BACKENDS)
@pytest.mark.parametrize(
  ('distance', 'ids', 'distances'),
  [
    ('l2', ['a', 'b', 'c'], [(2 - 1) ** 2, 2**2 + 1**2, (5 - 2) ** 2 + 4**2]),
    ('cosine', ['a', 'c', 'b'], [1 - 1, 1 - 5 / (25 + 16) ** 0.5, 1 - 0]),
  ],
)
def test_distances_by_hand(backend, distance, ids, distances):
  items = index.make_index(backend, distance)
  items.build([[1.0, 0.0], [0.0, 1.0], [5.0, 4.0]], ['a', 'b', 'c'])
  found, values = items.search([[2.0, 0.0]], 3)
  assert found.tolist() == [ids]
  assert values.dtype == np.float32
  np.testing.assert_allclose(values, [distances], atol=1e-6)


@pytest.mark.parametrize('block_scores', [1, 3000, 2**25])
@pytest.mark.parametrize('distance', base.DISTANCES)
@pytest.mark.parametrize('k', [1, 7, 300])
def test_exact_search_is_exact(monkeypatch, distance, k, block_scores):
  monkeypatch.setattr(exact, '_BLOCK_SCORES', block_scores)
  gallery, query = index_cases.gallery_and_query(300, 20)
  items = index.ExactIndex(distance)
  items.build(gallery)
  ids, distances = items.search(query, k)
  expected = index_cases.oracle(query, gallery, distance)
  np.testing.assert_array_equal(ids, np.argsort(expected, axis=1)[:, :k])
  np.testing.assert_allclose(
    distances, np.sort(expected, axis=1)[:, :k], rtol=1e-5, atol=1e-6
  )


def test_exact_search_orders_ties_by_arrival():
  items = index.ExactIndex()
  # Distances 0, 1, 2, 3, 4, 0, 1, ...: the nearest 20 are whole groups.
  items.build(np.sqrt(np.arange(50) % 5)[:, None], np.arange(50))
  ids, distances = items.search(np.zeros((2, 1)), 20)
  assert ids[1].tolist() == [*range(0, 50, 5), *range(1, 50, 5)]
  np.testing.assert_array_equal(distances[1], [0] * 10 + [1] * 10)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  st.integers(1, 400), st.data(), st.integers(1, 50), st.integers(0, 10**6)
)
def test_largest_scores(columns, data, values, seed):
  k = data.draw(st.integers(1, columns))
  rng = np.random.default_rng(seed)
  scores = rng.integers(values, size=(3, columns)).astype(np.float32)
  chosen = exact._largest(scores, k)
  assert all(len(set(row)) == k for row in chosen.tolist())
  np.testing.assert_array_equal(
    np.sort(np.take_along_axis(scores, chosen, axis=1)),
    np.sort(scores)[:, columns - k :],
  )


@pytest.mark.parametrize('backend', index_cases.BACKENDS)
def test_upserts_equal_a_fresh_build(backend):
  embeddings, query = index_cases.gallery_and_query(500, 20)
  names = np.array([f'item {i}' for i in range(500)])
  items, fresh = (index.make_index(backend) for _ in range(2))
  items.build(-embeddings[:200], names[:200])
  # Overwritten, overwritten and added in mixed order, added one by one.
  items.upsert(names[:150], embeddings[:150])
  mixed = np.random.default_rng(0).permutation(np.arange(150, 490))
  items.upsert(names[mixed], embeddings[mixed])
  for i in range(490, 500):
    items.upsert(names[i : i + 1], embeddings[i : i + 1])
  fresh.build(embeddings, names)
  assert len(items) == 500
  index_cases.assert_same_answers(items, fresh, query, 20)


@pytest.mark.parametrize(('backend', 'options'), index_cases.VARIANTS)
def test_every_item_is_found_where_it_was_put(backend, options):
  items = index.make_index(backend, **options)
  embeddings = index_cases.clusters(2000, 1)[0]
  items.build(embeddings[:1500], np.arange(1500) * 7)
  items.upsert(np.arange(1000, 2000) * 7, embeddings[1000:] + 1)
  embeddings[1000:] += 1
  ids, distances = items.search(embeddings, 1)
  np.testing.assert_array_equal(ids[:, 0], np.arange(2000) * 7)
  assert (distances >= 0).all()
  np.testing.assert_allclose(distances, 0, atol=1e-4)


def bad_upserts():
  good = np.ones((2, 16))
  nan, infinite, long, thin = (good.copy() for _ in range(4))
  nan[1, 3], infinite[0, 0], long[0, 0] = np.nan, np.inf, 1e30
  return {
    'NaN': ([0, 900], nan, 'row 1 has squared length nan'),
    'inf': ([0, 900], infinite, 'row 0 has squared length inf'),
    'overflow': ([0, 900], long, 'row 0 has squared length inf'),
    'dimension': ([0, 900], thin[:, :5], 'dimension 5 is not'),
    'one vector': ([0], good[0], 'not real numbers'),
    'text': ([0, 900], good.astype(str), 'not real numbers'),
    'twice': ([0, 0], good, 'must be unique, 0 is not'),
    'new twice': ([900, 900], good, 'must be unique'),
    'too few ids': ([0], good, r'shape \(1,\), expected \(2,\)'),
    'float ids': ([0.0, 1.0], good, 'not 64-bit integers or strings'),
    'big ids': (np.array([0, 2**63], np.uint64), good, 'not 64-bit'),
    'other type': (['a', 'b'], good, 'those of the gallery int64'),
  }


@pytest.mark.parametrize(('backend', 'options'), index_cases.VARIANTS)
def test_bad_upserts_change_nothing(backend, options):
  embeddings, query = index_cases.gallery_and_query(400, 10)
  items = index.make_index(backend, **options)
  items.build(embeddings)
  before = items.search(query, 5)
  for ids, bad, message in bad_upserts().values():
    with pytest.raises(ValueError, match=message):
      items.upsert(ids, bad)
    for was, now in zip(before, items.search(query, 5), strict=True):
      np.testing.assert_array_equal(was, now)
  items.upsert(np.array([], int), np.zeros((0, 16)))
  assert len(items) == 400
  # Later upserts land where they should.
  items.upsert([900, 3, 901], embeddings[:3] + 9)
  ids, distances = items.search(embeddings[:3] + 9, 1)
  assert ids[:, 0].tolist() == [900, 3, 901]
  np.testing.assert_allclose(distances, 0, atol=1e-4)


@pytest.mark.parametrize('backend', index_cases.BACKENDS)
def test_bad_calls(backend):
  items = index.make_index(backend, 'cosine')
  for call in (
    lambda: items.search(np.ones((1, 3)), 1),
    lambda: items.upsert([0], np.ones((1, 3))),
  ):
    with pytest.raises(ValueError, match='build it first'):
      call()
  with pytest.raises(ValueError, match='are empty'):
    items.build(np.ones((0, 3)))
  with pytest.raises(ValueError, match=r'row 1 .* not 0 for cosine'):
    items.build([[1.0, 0], [0, 0]])
  assert len(items) == 0
  items.build(np.eye(3))
  for k in (0, 4, -1, 1.5, None):
    with pytest.raises(ValueError, match='not an integer from 1 to 3'):
      items.search(np.eye(3), k)
  with pytest.raises(ValueError, match='query: dimension 2'):
    items.search(np.eye(2), 1)
  assert items.search(np.ones((0, 3)), 2)[0].shape == (0, 2)
