"""Search, live upserts, and the sweep by an index."""

import importlib.util
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from absl import logging as absl_logging
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from fastfill_jax import index
from fastfill_jax.index import base, exact, scann

needs_scann = pytest.mark.skipif(
  importlib.util.find_spec('scann') is None, reason='no wheels of ScaNN here'
)
BACKENDS = ['exact', pytest.param('scann', marks=needs_scann)]
# Small galleries, yet searched as large ones are.
PARTITIONED = {'quantise_from': 0, 'partition_from': 0}


def clusters(rows, seed, classes=40, dim=16):
  """Embeddings [row, embedding] around shared class means, labels [row]."""
  rng = np.random.default_rng(seed)
  means = np.random.default_rng(0).normal(size=(classes, dim))
  labels = rng.integers(classes, size=rows)
  embeddings = means[labels] + 0.3 * rng.normal(size=(rows, dim))
  return embeddings.astype(np.float32), labels


def oracle(query, gallery, distance):
  """All distances [query, gallery], in float64."""
  query, gallery = query.astype(np.float64), gallery.astype(np.float64)
  if distance == 'l2':
    return ((query[:, None] - gallery) ** 2).sum(-1)
  if distance == 'dot':
    return -query @ gallery.T
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


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
  ('distance', 'ids', 'distances'),
  [
    ('l2', ['a', 'b', 'c'], [(2 - 1) ** 2, 2**2 + 1**2, (5 - 2) ** 2 + 4**2]),
    ('dot', ['c', 'a', 'b'], [-2 * 5, -2 * 1, -2 * 0]),
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
  gallery, query = clusters(300, 1)[0], clusters(20, 2)[0]
  items = index.ExactIndex(distance)
  items.build(gallery)
  ids, distances = items.search(query, k)
  expected = oracle(query, gallery, distance)
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


@pytest.mark.parametrize('backend', BACKENDS)
def test_upserts_equal_a_fresh_build(backend):
  embeddings, query = clusters(500, 1)[0], clusters(20, 2)[0]
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
  assert_same_answers(items, fresh, query, 20)


@pytest.mark.parametrize('options', [{}, PARTITIONED, {'partition_from': 0}])
@pytest.mark.parametrize('backend', BACKENDS)
def test_every_item_is_found_where_it_was_put(backend, options):
  options = options if backend == 'scann' else {}
  items = index.make_index(backend, **options)
  embeddings = clusters(2000, 1)[0]
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


@pytest.mark.parametrize('options', [{}, PARTITIONED, {'partition_from': 0}])
@pytest.mark.parametrize('backend', BACKENDS)
def test_bad_upserts_change_nothing(backend, options):
  options = options if backend == 'scann' else {}
  embeddings, query = clusters(400, 1)[0], clusters(10, 2)[0]
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


@pytest.mark.parametrize('backend', BACKENDS)
def test_bad_calls(backend):
  items = index.make_index(backend, 'cosine')
  for call in (
    lambda: items.search(np.ones((1, 3)), 1),
    lambda: items.upsert([0], np.ones((1, 3))),
    lambda: items.save('nowhere'),
  ):
    with pytest.raises(ValueError, match='build or load it first'):
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


@pytest.mark.parametrize('options', [{}, PARTITIONED, {'partition_from': 0}])
@pytest.mark.parametrize('backend', BACKENDS)
def test_saved_index_is_loaded_elsewhere(tmp_path, backend, options):
  options = options if backend == 'scann' else {}
  embeddings, query = clusters(600, 1)[0], clusters(10, 2)[0]
  names = [f'item {i}' for i in range(600)]
  make = lambda: index.make_index(backend, 'dot', **options)  # noqa: E731
  items, loaded, again = make(), make(), make()
  items.build(embeddings[:500], names[:500])
  items.save(tmp_path / 'here')
  shutil.move(tmp_path / 'here', tmp_path / 'there')
  loaded.load(tmp_path / 'there')
  assert_same_answers(items, loaded, query, 5)
  for each in (items, loaded):
    each.upsert(names[400:], embeddings[400:] + 1)
  assert_same_answers(items, loaded, query, 5)
  # Over the folder that it came from, now with more in it.
  loaded.save(tmp_path / 'there')
  again.load(tmp_path / 'there')
  assert_same_answers(items, again, query, 5)


def test_a_save_that_fails_leaves_no_index(tmp_path, monkeypatch):
  items = index.ExactIndex()
  items.build(np.eye(3))
  items.save(tmp_path)
  monkeypatch.setattr(items, '_save', lambda directory: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    items.save(tmp_path)
  with pytest.raises(ValueError, match='No index in'):
    items.load(tmp_path)


def test_what_cannot_be_loaded(tmp_path):
  items = index.ExactIndex('l2')
  items.build(np.eye(3))
  items.save(tmp_path / 'saved')
  with pytest.raises(ValueError, match=r'exact index by l2, not a .* dot'):
    index.ExactIndex('dot').load(tmp_path / 'saved')
  with pytest.raises(ValueError, match='No index in'):
    index.ExactIndex().load(tmp_path / 'nowhere')


@needs_scann
@pytest.mark.parametrize('distance', base.DISTANCES)
def test_scann_agrees_with_exact_search(distance):
  gallery, query = clusters(4000, 1)[0], clusters(200, 2)[0]
  truth = index.ExactIndex(distance)
  truth.build(gallery)
  ids, distances = truth.search(query, 10)
  for options, least in (
    ({}, 1.0),
    ({'quantise_from': 0}, 0.97),
    ({**PARTITIONED, 'leaves_to_search': 0.2}, 0.9),
  ):
    items = index.ScannIndex(distance, **options)
    items.build(gallery)
    found, values = items.search(query, 10)
    assert index.recall(found, ids) >= least
    both = found == ids
    np.testing.assert_allclose(
      values[both], distances[both], rtol=1e-4, atol=1e-5
    )


@needs_scann
def test_scann_finds_k_items_even_beyond_the_leaves_it_searches():
  gallery = clusters(1000, 1)[0]
  items = index.ScannIndex(leaves_to_search=0.01, **PARTITIONED)
  items.build(gallery)
  ids, distances = items.search(gallery[:5], 1000)
  assert all(sorted(row) == list(range(1000)) for row in ids.tolist())
  assert np.isfinite(distances).all()
  assert (np.diff(distances) >= 0).all()


@needs_scann
def test_scann_rebalances_when_the_space_has_moved():
  gallery, query = clusters(3000, 1)[0], clusters(200, 2)[0]
  noise = np.random.default_rng(3).normal(size=gallery.shape)
  items, truth = index.ScannIndex(**PARTITIONED), index.ExactIndex()
  items.build(gallery + 0.05 * noise)
  items.upsert(np.arange(3000), gallery)
  assert not items.rebalance()
  rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(16, 16)))[0]
  items.upsert(np.arange(2000), gallery[:2000] @ rotation)
  truth.build(np.concatenate([gallery[:2000] @ rotation, gallery[2000:]]))
  stale = items.search(query @ rotation, 10)[0]
  assert items.rebalance()
  assert not items.rebalance()
  true = truth.search(query @ rotation, 10)[0]
  trained = items.search(query @ rotation, 10)[0]
  assert index.recall(trained, true) > index.recall(stale, true)
  assert not truth.rebalance()


@needs_scann
@pytest.mark.parametrize(
  ('error', 'imbalance', 'stale'),
  [(1, 0.5, False), (1.09, 0.69, False), (1.11, 0.5, True), (1, 0.71, True)],
)
def test_scann_is_stale_by_error_or_by_imbalance(
  monkeypatch, error, imbalance, stale
):
  items = index.ScannIndex()
  items.build(clusters(50, 1)[0])
  items._trained = {'error': 1.0, 'imbalance': 0.5}
  now = {'error': error, 'imbalance': imbalance}
  monkeypatch.setattr(items, '_health', lambda: now)
  assert items.rebalance() == stale
  # What it was trained on is now the measure.
  assert not items.rebalance()


@needs_scann
@pytest.mark.parametrize(
  'options',
  [{'leaves_to_search': 0.0}, {'leaves_to_search': 2}, {'reorder': 0}],
)
def test_scann_options_out_of_range(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    index.make_index('scann', **options)


@needs_scann
def test_scann_is_imported_without_tensorflow(tmp_path):
  (tmp_path / 'tensorflow.py').write_text('raise RuntimeError("imported")')
  code = (
    'from fastfill_jax import index\n'
    'import sys\n'
    'assert isinstance(index.make_index("auto"), index.ScannIndex)\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  root = pathlib.Path(index.__file__).parents[2]
  path = os.pathsep.join([str(tmp_path), str(root)])
  environment = {**os.environ, 'PYTHONPATH': path}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)


@needs_scann
def test_an_imported_tensorflow_stays(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', sys)
  scann.import_scann()
  assert sys.modules['tensorflow'] is sys


def test_without_scann_auto_is_exact(monkeypatch, caplog):
  monkeypatch.setitem(sys.modules, 'scann', None)
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  with caplog.at_level(logging.INFO):
    items = index.make_index('auto', 'dot', reorder=200)
  assert isinstance(items, index.ExactIndex)
  assert items.distance == 'dot'
  assert [r.message for r in caplog.records if 'exactly' in r.message]
  with pytest.raises(ImportError, match="use the index 'exact'"):
    index.make_index('scann')


def test_unknown_names():
  with pytest.raises(ValueError, match="Did you mean 'scann'"):
    index.make_index('scan')
  with pytest.raises(ValueError, match=r"Unknown distance 'cosin'.*'cosine'"):
    index.make_index('exact', 'cosin')


def test_recall_by_hand():
  assert index.recall([[1, 2], [3, 4]], [[2, 9], [4, 3]]) == (1 + 2) / 4
  # The same id found for another query counts nothing.
  assert index.recall([['a'], ['b']], [['b'], ['a']]) == 0
  for bad in ([[1, 2]], [1, 2]):
    with pytest.raises(ValueError, match='not both'):
      index.recall(bad, [[1], [2]])
  with pytest.raises(ValueError, match='are empty'):
    index.recall(np.zeros((0, 2)), np.zeros((0, 2)))


def sweep_case():
  """Queries are in the gallery; one gallery item is alone in its class."""
  rng = np.random.default_rng(0)
  new, labels = clusters(60, 1, classes=6)
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
  curves = index.sweep(index.ExactIndex(), k=59, **case)
  for i, cutoff in enumerate(case['cutoffs']):
    mixed = case['aligned'].copy()
    done = case['order'][:cutoff]
    mixed[done] = case['new'][done]
    similarity = -oracle(case['query'], mixed, 'l2')
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
  curves = index.sweep(index.ExactIndex(), k=5, **case)
  # Retrieved: r x r x x; then r r x x r; then r r r x x, the first two tied.
  np.testing.assert_allclose(
    curves['mAP@5'],
    [(1 / 1 + 2 / 3) / 4, (1 / 1 + 2 / 2 + 3 / 5) / 4, (2 / 2 * 2 + 3 / 3) / 4],
    rtol=1e-6,
  )
  assert curves['cmc@1'].tolist() == [1, 1, 1]
  # Without ids the copies are retrieved, r r r x r; six items are relevant.
  del case['query_ids'], case['gallery_ids']
  curves = index.sweep(index.ExactIndex(), k=5, **case)
  np.testing.assert_allclose(
    curves['mAP@5'][0], (2 / 2 * 2 + 3 / 3 + 4 / 5) / min(5, 6), rtol=1e-6
  )


@needs_scann
def test_sweep_by_scann_is_near_the_exact_one():
  new, labels = clusters(3000, 1)
  query, query_labels = clusters(100, 2)
  rng = np.random.default_rng(0)
  aligned = (new + 0.2 * rng.normal(size=new.shape)).astype(np.float32)
  rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
  order, cutoffs = rng.permutation(3000), [0, 1500, 3000]
  for start, rebalanced in ((aligned, False), (new @ rotation, True)):
    exact_curves, scann_curves = (
      index.sweep(
        items,
        query,
        start,
        new,
        query_labels,
        labels,
        order,
        cutoffs,
        k=20,
        recall_queries=30,
      )
      for items in (
        index.ExactIndex(),
        index.ScannIndex(leaves_to_search=0.3, **PARTITIONED),
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
    (changed('order', lambda x: x * 1.0), 'order is float64'),
    (changed('cutoffs', lambda x: [20, 10]), r'do not ascend within 0..60'),
    (changed('cutoffs', lambda x: [0, 61]), 'do not ascend within 0..60'),
    (changed('cutoffs', lambda x: [-1, 6]), 'do not ascend within 0..60'),
    (changed('cutoffs', lambda x: [0.5]), 'cutoffs is float64'),
    (changed('cutoffs', lambda x: []), 'cutoffs is'),
    (changed('query_labels', lambda x: x[:-1]), r'labels have shapes \(39,\)'),
    (changed('gallery_ids', lambda x: x[:-1]), r'ids have shapes .* \(59,\)'),
    (changed('query_ids', lambda x: None), r'ids have shapes \(\)'),
    (changed('query_labels', lambda x: x + 500), 'No query has a relevant'),
    (changed('query', lambda x: x[:0]), 'There are 0 queries'),
    (changed('query', lambda x: x[:, :3]), 'query: dimension 3'),
    (changed('new', lambda x: x[:, :3]), 'new: dimension 3'),
    (changed('new', lambda x: x[:-1]), 'new'),
    (changed('new', lambda x: x * np.nan), 'new: row 0 has squared length nan'),
    (lambda case: case.update(k=4), 'k=4 is not an integer from 5 to 59'),
    (lambda case: case.update(k=60), 'k=60 is not an integer from 5 to 59'),
    (lambda case: case.update(recall_queries=0), 'recall_queries=0'),
  ],
)
def test_sweep_refuses(change, message):
  case = {'k': 5} | sweep_case()
  change(case)
  items = index.ExactIndex()
  with pytest.raises(ValueError, match=message):
    index.sweep(items, **case)
  # Nothing was computed.
  assert len(items) == 0
