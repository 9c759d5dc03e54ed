"""Gains learnt on training items, where what is known of an item misleads."""

import numpy as np
import pytest
from scipy import stats

from fastfill_jax.curve import gain
from fastfill_jax.methods import method
from fastfill_jax.stages import gallery, learnt
from fastfill_jax.storage import arrays, artifact, splits

_SIZES = {'train': 1200, 'gallery': 300}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """-> (embedded, maps): the last coordinate of old says how noisy it is.

  Its log-variance is turned round: the surest item is the noisiest one.
  """
  root = tmp_path_factory.mktemp('embeddings')
  rng = np.random.default_rng(0)
  means = 2 * rng.normal(size=(6, 8))
  for split, size in _SIZES.items():
    label = rng.integers(6, size=size)
    new = means[label] + 0.8 * rng.normal(size=(size, 8))
    scale = rng.uniform(0, 3, size=(size, 1))
    old = np.hstack([new + scale * rng.normal(size=new.shape), scale])
    view = 'train/view0' if split == 'train' else split
    for name, array in {'old': old, 'new': new}.items():
      arrays.write(root / view / name, array.astype(np.float32))
    arrays.write(root / split / 'label', label)
    arrays.write(root / split / 'id', np.arange(size))
  source = artifact.Artifact('embed/source', '', root, '')
  maps = method.Maps(
    lambda old, side=None: (old[:, :-1], -np.log(old[:, -1] ** 2 + 1e-3)),
    new_dim=8,
  )
  return dict.fromkeys(('old', 'new', 'columns'), source), maps


def _predict(embedded, maps, new_dim=8):
  items = splits.Split(embedded, 'gallery')
  aligned, log_variance = maps.align(items['old'][:])
  available = gallery.readable(
    embedded, 'new', aligned, log_variance, 0, new_dim
  )
  return learnt.predicted_gains(
    *(maps, embedded, 'old', 'new', available), fuse=0, distance='l2', seed=0
  )


def test_they_are_near_the_true_ones_though_sigma_misleads(made):
  embedded, maps = made
  items = splits.Split(embedded, 'gallery')
  aligned, log_variance = maps.align(items['old'][:])
  label, ids, new = items['label'][:], items['id'][:], items['new'][:]
  true = gain.marginal(
    *(new, aligned, new, label, label, ids, ids), distance='l2', seed=3
  )
  got = _predict(embedded, maps)
  assert stats.spearmanr(log_variance, true).statistic < -0.4
  assert stats.spearmanr(got, true).statistic > 0.6
  assert true[got > 0].mean() > 0 > true[got < 0].mean()


def test_no_training_item_is_its_own_neighbour(made):
  embedded, _ = made
  rows = np.arange(0, 1200, 2)
  held = gallery.readable(embedded, 'new', np.zeros((3, 8)), None, 0, 8, rows)
  all_of_it = gallery.readable(embedded, 'new', np.zeros((3, 8)), None, 0, 8)
  assert held['train_new'].shape == (600, 8)
  for name in ('train_new', 'train_labels'):
    picked = all_of_it[name][rows[[1, 5]]]
    np.testing.assert_array_equal(held[name][np.array([1, 5])], picked)


def test_without_labels_or_orders_there_are_none(made, tmp_path):
  embedded, maps = made
  bare = method.Maps(lambda old, side=None: (old, None))
  assert _predict(embedded, bare, new_dim=None) is None
  for name in ('old', 'new'):
    array = splits.Pairs(embedded).views[0][name][:]
    arrays.write(tmp_path / 'train/view0' / name, array)
    arrays.write(tmp_path / 'gallery' / name, array)
  source = artifact.Artifact('embed/source', '', tmp_path, '')
  assert _predict(dict.fromkeys(('old', 'new'), source), maps) is None
