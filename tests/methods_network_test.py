"""A map that is known is learnt, and so is how far it can be trusted."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from fastfill_jax import curve, methods, parallel, policies
from fastfill_jax.methods import network
from fastfill_jax.training import loop

_DIM = 4
_SPREAD = 0.2
_SIZE = 8192
_EPOCHS = 10
_RECIPE = {
  'hidden_dim': 128,
  'label_smoothing': 0.1,
  'batch_size': 256,
  'num_epochs': _EPOCHS,
  'warmup_epochs': 1,
  'freeze_batch_norm': 0.5,
  'optimizer': {'name': 'adam', 'learning_rate': 1e-2},
}


class _Never:
  def requested(self, step):
    return False


_HOW = parallel.How(_Never(), log_every=1000, checkpoint_every=1000)


@dataclasses.dataclass(frozen=True)
class _Items:
  old: np.ndarray  # What the known map takes, and the level's logarithm.
  new: np.ndarray
  level: np.ndarray  # Of the noise, in which new differs from the known map.
  label: np.ndarray
  best: np.ndarray  # What of new can be told from old: no map comes nearer.


def _items(size, seed):
  """New embeddings near a cube's corners; old ones that lost some of it."""
  rng = np.random.default_rng(0)
  turns = np.linalg.qr(rng.normal(size=(2, _DIM, _DIM)))[0]
  rng = np.random.default_rng((1, seed))
  corner = rng.choice([-1, 1], size=(size, _DIM))
  new = corner + _SPREAD * rng.normal(size=corner.shape)
  told = rng.uniform(-1, 1, (size, 1))
  level = np.exp(1.5 * told - 0.5)
  seen = new + level * rng.normal(size=new.shape)
  # The known map is a turn, a kink and a turn: this is its inverse.
  kinked = seen @ turns[1].T
  old = np.where(kinked > 0, kinked / 2, kinked) @ turns[0].T
  # Given a coordinate of `seen`, new's is about 1 or -1; then it is Gaussian.
  variance = _SPREAD**2 + level**2
  share = _SPREAD**2 / variance
  sides = [(1 - share) * sign + share * seen for sign in (1, -1)]
  weight = 1 / (1 + np.exp(-2 * seen / variance))
  held = np.concatenate([old, told], axis=1), new, level[:, 0]
  return _Items(
    *(x.astype(np.float32) for x in held),
    label=(corner > 0) @ 2 ** np.arange(_DIM),
    best=weight * sides[0] + (1 - weight) * sides[1],
  )


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

  train, held_out = _items(_SIZE, 0), _items(600, 1)
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


def test_the_error_comes_near_what_can_be_told(trained):
  items, aligned, *_ = trained

  def error(guess):
    return np.mean((guess - items.new) ** 2)

  constant, identity = error(items.new.mean(axis=0)), error(items.old[:, :_DIM])
  assert error(aligned) < 1.5 * error(items.best)
  assert error(aligned) < 0.5 * min(constant, identity)


def test_the_log_variance_finds_the_noisy_and_measures_the_error(trained):
  items, aligned, log_variance, _ = trained
  error = np.mean((aligned - items.new) ** 2, axis=1)
  assert scipy.stats.spearmanr(log_variance, items.level).statistic > 0.5
  assert scipy.stats.spearmanr(log_variance, error).statistic > 0.6
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
  sigma, *random, reverse = swept['mAP'].mean(axis=1)
  assert sigma > max(random) + 0.02
  assert min(random) > reverse + 0.02


def test_batch_norm_is_frozen_from_the_share_on(trained):
  seen = trained[-1]
  assert len(seen) == _EPOCHS * _SIZE // 256
  leaves = [np.concatenate([*map(np.ravel, jax.tree.leaves(x))]) for x in seen]
  moves = [np.any(a != b) for a, b in itertools.pairwise(leaves)]
  middle = len(seen) // 2
  assert all(moves[: middle - 1])
  assert not any(moves[middle - 1 :])


def test_a_map_of_queries_is_fitted_from_new_to_old(tmp_path, monkeypatch):
  items, seen = _items(64, 0), []
  old, new = items.new, items.old

  def fit(state, step_fn, batches, **options):
    seen.append(next(batches(0)))
    return state

  monkeypatch.setattr(loop, 'fit', fit)
  recipe = _RECIPE | {'hidden_dim': 8, 'batch_size': 16}
  chosen = methods.make('fct', acts_on='query')
  chosen.fit(tmp_path, _HOW, [{'old': old, 'new': new}], None, recipe, 0)
  (batch,) = seen
  assert (batch['old'].shape[1], batch['new'].shape[1]) == (5, 4)
  maps = chosen.load(tmp_path)
  np.testing.assert_array_equal(maps.align(old)[0], old)
  assert maps.align(old)[1] is None
  assert maps.query(new).shape == old.shape
