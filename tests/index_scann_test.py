"""ScaNN behind the index: how it is found, how it finds, when it is stale."""

import os
import pathlib
import subprocess
import sys

import index_cases
import numpy as np
import pytest

from fastfill_jax import index
from fastfill_jax.index import base, scann


@index_cases.needs_scann
@pytest.mark.parametrize('distance', base.DISTANCES)
def test_scann_agrees_with_exact_search(distance):
  gallery, query = index_cases.gallery_and_query(4000, 200)
  truth = index.ExactIndex(distance)
  truth.build(gallery)
  ids, distances = truth.search(query, 10)
  for options, least in (
    ({}, 1.0),
    ({'quantise_from': 0}, 0.97),
    ({**index_cases.PARTITIONED, 'leaves_to_search': 0.2}, 0.9),
  ):
    items = index.ScannIndex(distance, **options)
    items.build(gallery)
    found, values = items.search(query, 10)
    assert index.recall(found, ids) >= least
    both = found == ids
    np.testing.assert_allclose(
      values[both], distances[both], rtol=1e-4, atol=1e-5
    )


@index_cases.needs_scann
def test_scann_finds_k_items_even_beyond_the_leaves_it_searches():
  gallery = index_cases.clusters(1000, 1)[0]
  items = index.ScannIndex(leaves_to_search=0.01, **index_cases.PARTITIONED)
  items.build(gallery)
  ids, distances = items.search(gallery[:5], 1000)
  assert all(sorted(row) == list(range(1000)) for row in ids.tolist())
  assert np.isfinite(distances).all()
  assert (np.diff(distances) >= 0).all()


@index_cases.needs_scann
def test_scann_rebalances_when_the_space_has_moved():
  gallery, query = index_cases.gallery_and_query(3000, 200)
  noise = np.random.default_rng(3).normal(size=gallery.shape)
  items, truth = index.ScannIndex(**index_cases.PARTITIONED), index.ExactIndex()
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


@index_cases.needs_scann
@pytest.mark.parametrize(
  ('error', 'imbalance', 'stale'),
  [(1, 0.5, False), (1.09, 0.69, False), (1.11, 0.5, True), (1, 0.71, True)],
)
def test_scann_is_stale_by_error_or_by_imbalance(
  monkeypatch, error, imbalance, stale
):
  items = index.ScannIndex()
  items.build(index_cases.clusters(50, 1)[0])
  items._trained = {'error': 1.0, 'imbalance': 0.5}
  now = {'error': error, 'imbalance': imbalance}
  monkeypatch.setattr(items, '_health', lambda: now)
  assert items.rebalance() == stale
  # What it was trained on is now the measure.
  assert not items.rebalance()


@index_cases.needs_scann
@pytest.mark.parametrize(
  'options',
  [{'leaves_to_search': 0.0}, {'leaves_to_search': 2}],
)
def test_scann_options_out_of_range(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    index.make_index('scann', **options)


@index_cases.needs_scann
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


@index_cases.needs_scann
def test_an_imported_tensorflow_stays(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', sys)
  scann.import_scann()
  assert sys.modules['tensorflow'] is sys


def test_without_scann_auto_is_exact(monkeypatch, log):
  monkeypatch.setitem(sys.modules, 'scann', None)
  items = index.make_index('auto', 'cosine', leaves_to_search=0.1)
  assert isinstance(items, index.ExactIndex)
  assert items.distance == 'cosine'
  assert [r.message for r in log.records if 'exactly' in r.message]
  with pytest.raises(ImportError, match="use the index 'exact'"):
    index.make_index('scann')


def test_unknown_names():
  with pytest.raises(ValueError, match="did you mean 'scann'"):
    index.make_index('scan')
  with pytest.raises(ValueError, match=r"Unknown distance 'cosin'.*'cosine'"):
    index.make_index('exact', 'cosin')
