"""A second update in the middle of the first, on linear maps."""

import numpy as np
import pandas as pd
import pytest

from fastfill_jax import curve, parallel, policies
from fastfill_jax.methods import method
from fastfill_jax.stages import align, sequence
from fastfill_jax.storage import arrays, artifact

_SIZE = 40


def _linear(kernel, sign=None):
  """old @ kernel; the log-variance is a coordinate of old, or there is none."""

  def map_rows(old, side):
    aligned = (old @ kernel).astype(np.float32)
    return aligned, None if sign is None else sign * old[:, 0]

  return method.Maps(map_rows)


@pytest.fixture
def case(tmp_path, monkeypatch):
  """-> (arrays, kernels, run(maps, **changes) -> rows by policy and switch)."""
  monkeypatch.setattr(align, 'load', lambda definition, fitted: fitted)
  rng = np.random.default_rng(0)
  label = rng.integers(3, size=_SIZE)
  centre = rng.normal(size=(3, 5))
  newer = centre[label] + 0.7 * rng.normal(size=(_SIZE, 5))
  kernels = {
    'first': rng.normal(size=(3, 4)),
    'second': rng.normal(size=(4, 5)),
    'direct': rng.normal(size=(3, 5)),
  }
  held = {
    'old': newer[:, :3] + rng.normal(size=(_SIZE, 3)),
    'new': newer[:, :4] + 0.5 * rng.normal(size=(_SIZE, 4)),
    'newer': newer,
  }
  held = {name: x.astype(np.float32) for name, x in held.items()}
  for name, array in (held | {'label': label, 'id': np.arange(_SIZE)}).items():
    arrays.write(tmp_path / 'gallery' / name, array)
    arrays.write(tmp_path / 'train/view0' / name, array)
  held['label'] = label
  one = artifact.Artifact('embed/source', '', tmp_path, '')

  def run(maps, names=('random', 'distance'), switches=(0.0, 0.5, 1.0)):
    sequence.sequence(
      tmp_path,
      parallel.How(None, sweep_backend='numba'),
      definition={},
      **maps,
      embedded=dict.fromkeys(('old', 'new', 'newer', 'columns'), one),
      encoders=['old', 'new', 'newer'],
      names=list(names),
      switches=list(switches),
      steps=4,
      distance='l2',
      seed=7,
    )
    rows = pd.read_csv(tmp_path / 'sequence.csv')
    assert set(rows['seed']) == {7}
    rows['switch'] = [
      x if x == sequence.DIRECT else float(x) for x in rows['switch']
    ]
    return rows.set_index(['policy', 'switch'])

  return held, kernels, run


def _assert_is(row, held, aligned, policy, log_variance=None):
  """That a row is of one backfill of this aligned gallery to newer."""
  order = policies.make_order(
    policy,
    key=_key(),
    aligned=aligned,
    new=held['newer'],
    log_variance=log_variance,
  )
  swept = curve.sweep(
    *(held['newer'], aligned, held['newer'], held['label'], held['label']),
    *(order[None], curve.cutoffs(_SIZE, 4)),
    query_ids=np.arange(_SIZE),
    gallery_ids=np.arange(_SIZE),
    backend='numba',
  )
  for metric in curve.METRICS:
    values = swept[metric][0]
    np.testing.assert_allclose(row[metric], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(row[f'{metric}_start'], values[0], rtol=1e-6)


def _key():
  import jax

  return jax.random.key(7)


def test_its_ends_are_a_fresh_update_and_the_two_maps_after_each_other(case):
  held, kernels, run = case
  rows = run({name: _linear(kernel) for name, kernel in kernels.items()})
  composed = held['old'] @ kernels['first'] @ kernels['second']
  fresh = held['new'] @ kernels['second']
  at_once = held['old'] @ kernels['direct']
  for policy in ('random', 'distance'):
    for switch, aligned in (
      (0.0, composed),
      (1.0, fresh),
      (sequence.DIRECT, at_once),
    ):
      row = rows.loc[(policy, switch)]
      _assert_is(row, held, aligned.astype(np.float32), policy)
  # In the middle: the first half of the first backfill's order is new.
  aligned = (held['old'] @ kernels['first']).astype(np.float32)
  order = policies.make_order('random', key=_key(), aligned=aligned)
  mixed = composed.copy()
  mixed[order[: _SIZE // 2]] = fresh[order[: _SIZE // 2]]
  row = rows.loc[('random', 0.5)]
  _assert_is(row, held, mixed.astype(np.float32), 'random')


def test_uncertainties_of_both_maps_add_up(case):
  held, kernels, run = case
  signs = {'first': 1.0, 'second': -1.0, 'direct': 2.0}
  rows = run(
    {name: _linear(kernels[name], signs[name]) for name in kernels}, ['sigma']
  )
  first = (held['old'] @ kernels['first']).astype(np.float32)
  before, again = held['old'][:, 0], -first[:, 0]
  composed = (first @ kernels['second']).astype(np.float32)
  fresh = (held['new'] @ kernels['second']).astype(np.float32)
  # Nothing is backfilled yet: variances add up.
  total = np.log(np.exp(before) + np.exp(again))
  _assert_is(rows.loc[('sigma', 0.0)], held, composed, 'sigma', total)
  # All is: only the second map errs.
  _assert_is(rows.loc[('sigma', 1.0)], held, fresh, 'sigma', -held['new'][:, 0])
  reached = np.argsort(-before, kind='stable')[: _SIZE // 2]
  mixed, total = composed.copy(), total.copy()
  mixed[reached], total[reached] = fresh[reached], -held['new'][reached, 0]
  _assert_is(rows.loc[('sigma', 0.5)], held, mixed, 'sigma', total)
  _assert_is(
    rows.loc[('sigma', sequence.DIRECT)],
    held,
    (held['old'] @ kernels['direct']).astype(np.float32),
    'sigma',
    2 * held['old'][:, 0],
  )


def test_totals_per_coordinate():
  before, added = np.log([[1.0, 2.0], [3.0, 4.0]]), np.log([[4.0, 3.0]] * 2)
  total = sequence._total(before, added, np.array([True, False]))
  np.testing.assert_allclose(np.exp(total), [[4, 3], [3 + 4, 4 + 3]])
  assert sequence._total(None, None, np.array([True])) is None


def test_maps_of_queries_have_no_sequence(case):
  _, kernels, run = case
  maps = {name: _linear(kernel) for name, kernel in kernels.items()}
  maps['first'] = method.Maps(maps['first'].align, lambda new: new)
  with pytest.raises(ValueError, match='leave the query as it is'):
    run(maps)


@pytest.mark.parametrize(
  ('names', 'switches', 'message'),
  [
    (('random',), (1.5,), r'switches=\(1.5,\)'),
    (('randm',), (0.5,), "did you mean 'random'"),
    ((), (0.5,), r'policies=\(\)'),
  ],
)
def test_bad_settings_are_named(names, switches, message):
  with pytest.raises(ValueError, match=message):
    sequence.check(names, switches)
