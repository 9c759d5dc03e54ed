"""The plan folder, its growth, and orders that are sorted in parts."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest

from fastfill_jax.forecast import fitting, holdings, orders, planning, sampling
from fastfill_jax.storage import arrays as sharded

_ALL = ('id', 'aligned', 'score', 'order')


def _gallery(size, seed=0, ids=None):
  rng = np.random.default_rng(seed)
  rows = rng.standard_normal((size, 4)).astype(np.float32)
  return holdings.Vectors(f'gallery{seed}', rows, ids)


def _fitted(method='ridge'):
  rng = np.random.default_rng(9)
  old = rng.standard_normal((60, 4)).astype(np.float32)
  new = np.tanh(old @ rng.standard_normal((4, 5))).astype(np.float32)
  return fitting.fit(method, old, new, hidden_dim=8, max_steps=3)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
  monkeypatch.setattr(planning, 'SHARD_ROWS', 16)
  monkeypatch.setattr(orders, '_SHARD_ROWS', 16)


def _arrays(plan, names=_ALL):
  return {name: sharded.ShardedArray(plan / name)[:] for name in names}


@pytest.mark.parametrize('distance', ['l2', 'cosine'])
def test_a_plan_is_the_gallery_aligned_and_in_order(distance, tmp_path):
  gallery, fitted = _gallery(50), _fitted()
  planning.write(tmp_path, gallery, fitted, 'norm', distance, 'new-3')
  held = _arrays(tmp_path)
  aligned, _ = fitted.align(gallery.rows)
  length = np.linalg.norm(aligned, axis=1)
  np.testing.assert_array_equal(held['order'], np.argsort(length))
  if distance == 'cosine':
    aligned = aligned / length[:, None]
  np.testing.assert_allclose(held['aligned'], aligned, rtol=1e-6)
  np.testing.assert_array_equal(held['id'], np.arange(50))
  said = json.loads((tmp_path / 'plan.json').read_text())
  assert said['alignment'] == fitted.digest
  expected = {
    'format': 1,
    'count': 50,
    'old_dim': 4,
    'new_dim': 5,
    'distance': distance,
    'policy': 'norm',
    'method': 'ridge',
    'encoder': 'new-3',
  }
  assert expected.items() <= said.items()


@pytest.mark.slow
def test_a_killed_plan_goes_on(tmp_path, monkeypatch):
  gallery, fitted = _gallery(50), _fitted('l2+u')
  planning.write(tmp_path / 'whole', gallery, fitted, 'sigma', 'l2')
  written = []

  def write(directory, shard, rows, write_shard=sharded.write_shard):
    if len(written) == 6:
      raise KeyboardInterrupt
    written.append(directory)
    write_shard(directory, shard, rows)

  with monkeypatch.context() as patch:
    patch.setattr(sharded, 'write_shard', write)
    with pytest.raises(KeyboardInterrupt):
      planning.write(tmp_path / 'killed', gallery, fitted, 'sigma', 'l2')
  with pytest.raises(ValueError, match='no finished plan'):
    planning.read(tmp_path / 'killed')
  with pytest.raises(ValueError, match='something else'):
    planning.write(tmp_path / 'killed', gallery, fitted, 'random', 'l2')
  planning.write(tmp_path / 'killed', gallery, fitted, 'sigma', 'l2')
  names = (*_ALL, 'log_variance')
  whole, killed = (
    _arrays(tmp_path / name, names) for name in ('whole', 'killed')
  )
  for name, array in whole.items():
    np.testing.assert_array_equal(array, killed[name])


@pytest.mark.parametrize('order', ['random', 'norm'])
def test_growth_is_the_plan_of_the_whole(order, tmp_path):
  ids = np.array([f'item{i}' for i in range(120)])
  whole = _gallery(120, ids=ids)
  first = holdings.Vectors('first', whole.rows[:80], ids[:80])
  more = holdings.Vectors('more', whole.rows[80:], ids[80:])
  fitted = _fitted()
  planning.write(tmp_path / 'whole', whole, fitted, order, 'l2')
  planning.write(tmp_path / 'first', first, fitted, order, 'l2')
  planning.grow(tmp_path / 'first', tmp_path / 'grown', more)
  expected, grown = (_arrays(tmp_path / name) for name in ('whole', 'grown'))
  for name, array in expected.items():
    np.testing.assert_allclose(
      *(x if x.dtype.kind != 'U' else x == ids for x in (grown[name], array)),
      rtol=1e-5,
    )
  assert planning.read(tmp_path / 'grown')['count'] == 120
  with pytest.raises(ValueError, match=r'item80.* is in'):
    planning.grow(tmp_path / 'grown', tmp_path / 'again', more)
  with pytest.raises(ValueError, match='has no ids'):
    planning.grow(tmp_path / 'grown', tmp_path / 'again', _gallery(3))


def test_external_sort_is_a_sort(tmp_path):
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 40, 500).astype(np.float32)
  sharded.write(tmp_path / 'score', scores, 60)
  held = sharded.ShardedArray(tmp_path / 'score')
  orders.write(held, tmp_path / 'order', memory_rows=50)
  found = sharded.ShardedArray(tmp_path / 'order')[:]
  np.testing.assert_array_equal(found, np.argsort(-scores, kind='stable'))
  assert not (tmp_path / 'order.buckets').exists()


def test_lists_stop_at_the_budget(tmp_path):
  ids = np.array([f'a"{i},b' for i in range(40)])
  planning.write(tmp_path, _gallery(40, ids=ids), _fitted(), 'norm', 'l2')
  planning.write_list(tmp_path, 20)
  planning.write_list(tmp_path, 20, 'parquet')
  order = _arrays(tmp_path)['order'][:20]
  with (tmp_path / 'plan.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['id'] for row in rows] == ids[order].tolist()
  assert [int(row['rank']) for row in rows] == list(range(1, 21))
  held = pyarrow.parquet.read_table(tmp_path / 'plan.parquet').to_pydict()
  assert held['id'] == ids[order].tolist()


def test_random_scores_are_uniform_and_of_the_id():
  ids = np.arange(5000)
  score = orders.score('random', ids, None, None)
  np.testing.assert_allclose(np.sort(score), (ids + 0.5) / 5000, atol=0.03)
  np.testing.assert_array_equal(
    orders.score('random', ids[7:9], None, None), score[7:9]
  )
  with pytest.raises(ValueError, match='sigma needs'):
    orders.score('sigma', ids, np.ones((5000, 2)), None)


@pytest.mark.parametrize('method', ['procrustes', 'l2+u'])
def test_saved_alignments_align_the_same(method, tmp_path):
  fitted, old = _fitted(method), _gallery(30).rows
  fitted.save(tmp_path)
  again = fitting.load(tmp_path)
  assert again.digest == fitted.digest
  np.testing.assert_array_equal(again.align(old)[0], fitted.align(old)[0])
  with pytest.raises(ValueError, match='old must be'):
    again.align(old[:, :3])


def test_samples():
  rng = np.random.default_rng(0)
  # A crowd and a few far away.
  old = rng.standard_normal((1000, 3)).astype(np.float32)
  old[:20] += 50
  drawn = sampling.draw(old, 100)
  assert len(np.unique(drawn)) == 100
  more = sampling.draw(old, 100, taken=drawn)
  assert not np.isin(more, drawn).any()
  spread = sampling.draw(old, 150, 'spread')
  assert np.sum(spread < 20) > np.sum(sampling.draw(old, 150) < 20)
  with pytest.raises(ValueError, match='of 900 items'):
    sampling.draw(old, 901, taken=drawn)
