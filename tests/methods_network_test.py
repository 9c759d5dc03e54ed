"""A map that is known is learnt, and so is how far it can be trusted."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from fastfill_jax import curve, methods, policies, running
from fastfill_jax.methods import network
from fastfill_jax.training import loop

_DIM = 8
_EPOCHS = 24
_RECIPE = {
  'hidden_dim': 64,
  'label_smoothing': 0.1,
  'batch_size': 256,
  'num_epochs': _EPOCHS,
  'warmup_epochs': 2,
  'freeze_batch_norm': 0.5,
  'optimizer': {'name': 'adam', 'learning_rate': 1e-2},
}


class _Never:
  def requested(self, step):
    return False


_HOW = running.How(_Never(), log_every=1000, checkpoint_every=1000)


@dataclasses.dataclass(frozen=True)
class _Items:
  old: np.ndarray
  clean: np.ndarray  # The known map of old.
  level: np.ndarray  # Of the noise: it is the first old coordinate's.
  new: np.ndarray

  @property
  def label(self):
    """The octant of the new embedding."""
    return (self.new[:, :3] > 0) @ np.array([1, 2, 4])


def _items(size, seed):
  maps = np.random.default_rng(0).normal(size=(2, _DIM, _DIM)) / _DIM**0.5
  rng = np.random.default_rng((1, seed))
  old = rng.normal(size=(size, _DIM))
  clean = 2 * np.tanh(old @ maps[0]) @ maps[1]
  level = np.exp(old[:, 0] - 1)
  new = clean + level[:, None] * rng.normal(size=clean.shape)
  return _Items(*(x.astype(np.float32) for x in (old, clean, level, new)))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """-> (held-out items, aligned, log-variance, BatchNorm's after each step)."""
  seen = []

  def fit(state, step_fn, batches, **options):
    def step(number, state, batch):
      state, metrics = step_fn(number, state, batch)
      seen.append(jax.device_get(state.batch_stats))
      return state, metrics

    return loop.fit(state, step, batches, **options)

  train, held_out = _items(2048, 0), _items(600, 1)
  chosen = methods.make('fastfill', error={'l2': 1.0})
  directory = tmp_path_factory.mktemp('fit')
  with pytest.MonkeyPatch.context() as patch:
    wrapped = type('', (), {'fit': staticmethod(fit), 'State': loop.State})
    wrapped.update = staticmethod(loop.update)
    patch.setattr(network, 'loop', wrapped)
    views = [{'old': train.old, 'new': train.new}]
    chosen.fit(directory, _HOW, views, None, _RECIPE, 0)
  aligned, log_variance = chosen.load(directory).align(held_out.old, None)
  return held_out, aligned, log_variance, seen


def test_the_error_comes_near_the_noise(trained):
  items, aligned, *_ = trained

  def error(guess):
    """Of the map itself, where its value can be told: little noise."""
    quiet = items.level < np.median(items.level)
    return np.mean((guess - items.clean)[quiet] ** 2)

  constant = error(items.new.mean(axis=0))
  assert error(aligned) < 0.15 * min(constant, error(items.old))
  floor = np.mean(items.level**2)
  # All items, noise and all: what no map can explain, and a fifth.
  assert np.mean((aligned - items.new) ** 2) < 1.2 * floor


def test_the_log_variance_finds_the_noisy_and_measures_them(trained):
  items, aligned, log_variance, _ = trained
  rank = scipy.stats.spearmanr(log_variance, items.level).statistic
  assert rank > 0.8
  error = np.mean((aligned - items.new) ** 2, axis=1)
  assert scipy.stats.spearmanr(log_variance, error).statistic > 0.5
  # It is the log of the error that is to be expected.
  for quarter in np.array_split(np.argsort(items.level), 4):
    expected = np.log(error[quarter].mean())
    assert abs(log_variance[quarter].mean() - expected) < 0.5


def test_sigma_beats_random_order(trained):
  items, aligned, log_variance, _ = trained
  queries = _items(150, 2)
  orders = [
    policies.make_order('sigma', log_variance=log_variance),
    *(np.random.default_rng(i).permutation(len(aligned)) for i in range(3)),
    policies.make_order('sigma', log_variance=-log_variance),
  ]
  swept = curve.sweep(
    *(queries.new, aligned, items.new, queries.label, items.label),
    *(np.stack(orders), curve.cutoffs(len(aligned), 9)),
    backend='numba',
  )
  sigma, *random, reverse = curve.area(swept['mAP'])
  assert sigma > max(random) + 0.01
  assert min(random) > reverse


def test_batch_norm_is_frozen_from_the_share_on(trained):
  seen = trained[-1]
  assert len(seen) == _EPOCHS * 2048 // 256
  leaves = [np.concatenate([*map(np.ravel, jax.tree.leaves(x))]) for x in seen]
  moves = [np.any(a != b) for a, b in itertools.pairwise(leaves)]
  middle = len(seen) // 2
  assert all(moves[: middle - 1])
  assert not any(moves[middle - 1 :])


def test_a_killed_fit_ends_alike_and_devices_share_the_work(tmp_path):
  """Also a fit to the query's side, which turns the pairs round."""
  items = _items(64, 0)
  recipe = _RECIPE | {'hidden_dim': 8, 'batch_size': 16, 'num_epochs': 2}
  chosen = methods.make('fct', acts_on='query')
  views = [{'old': items.old[:, :5], 'new': items.new}]
  chosen.fit(tmp_path, _HOW, views, None, recipe | {'warmup_epochs': 1}, 0)
  maps = chosen.load(tmp_path)
  np.testing.assert_array_equal(maps.align(items.old)[0], items.old)
  assert maps.align(items.old)[1] is None
  assert maps.query(items.new).shape == (64, 5)
