"""The commands from files to a plan, and the same from Python."""

import dataclasses

import forecast_cases
import numpy as np
import pandas as pd
import pytest

from fastfill_jax import forecast
from fastfill_jax.backfill import __main__ as main
from fastfill_jax.forecast import fitting, study
from fastfill_jax.storage import arrays as sharded

_FAST = {'methods': ('procrustes', 'ridge')}


@pytest.fixture
def fast(monkeypatch):
  monkeypatch.setattr(study, '_DRAWS', 2)
  monkeypatch.setattr(study, 'SHARES', np.array([0, 0.2, 0.5, 1]))


def _files(path, size=240):
  old, new, label = forecast_cases.pairs(size)
  ids = np.array([f'doc{i}' for i in range(size)])
  pairs = np.random.default_rng(0).permutation(size)[: size // 2]
  arrays = {
    'old': old,
    'old-ids': ids,
    'new': new[pairs],
    'new-ids': ids[pairs],
    'labels': label[pairs],
  }
  for name, array in arrays.items():
    np.save(path / f'{name}.npy', array)
  return {name: f'--{name}={path / name}.npy' for name in arrays}


def test_from_files_to_a_plan(fast, tmp_path, capsys):
  flags = _files(tmp_path)
  work, plan = f'--workdir={tmp_path / "work"}', tmp_path / 'plan'
  fit = ['fit', *flags.values(), work, '--methods=procrustes,ridge']
  assert main.main(fit) == 0
  assert main.main(['plan', work, f'--out={plan}']) == 2
  assert 'run `forecast` first' in capsys.readouterr().err
  assert main.main(['forecast', work]) == 0
  assert 'Would twice the pairs' in capsys.readouterr().out
  learnt = pd.read_csv(tmp_path / 'work' / 'learning.csv')
  assert sorted(set(learnt.pairs)) == [7, 15, 30, 60]
  assert main.main(['plan', work, '--budget=20%', f'--out={plan}']) == 0
  assert '20.0% backfilled' in (plan / 'plan.md').read_text()
  assert len(pd.read_csv(plan / 'plan.csv')) == 48
  told = pd.read_csv(plan / 'forecast.csv')
  assert set(told.metric) == {'mAP', 'cmc@1', 'cmc@5'}
  assert 'Distance: cosine' in (plan / 'plan.md').read_text()
  more = forecast_cases.pairs(30, seed=1)[0]
  np.save(tmp_path / 'more.npy', more)
  np.save(tmp_path / 'more-ids.npy', [f'more{i}' for i in range(30)])
  grow = ['grow', f'--plan={plan}', f'--out={tmp_path / "grown"}']
  grow += [f'--old={tmp_path}/more.npy', f'--old-ids={tmp_path}/more-ids.npy']
  assert main.main(grow) == 0
  assert len(sharded.ShardedArray(tmp_path / 'grown' / 'order')) == 270


def test_what_moved_is_said_to_have_moved(fast, tmp_path, capsys):
  flags, work = _files(tmp_path), f'--workdir={tmp_path / "work"}'
  fit = ['fit', flags['new'], work, '--methods=ridge']
  fit.append(flags['new'].replace('--new', '--old'))
  assert main.main(fit) == 0
  (tmp_path / 'new.npy').rename(tmp_path / 'elsewhere.npy')
  capsys.readouterr()
  assert main.main(['forecast', work]) == 2
  assert 'new.npy is not there; has it moved?' in capsys.readouterr().err


def test_nothing_is_fitted_to_wrong_input(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(fitting, 'fit', None)
  flags, work = _files(tmp_path), f'--workdir={tmp_path / "work"}'
  rows = np.load(tmp_path / 'old.npy')
  rows[200] = np.inf
  np.save(tmp_path / 'old.npy', rows)
  assert main.main(['fit', *flags.values(), work]) == 2
  said = capsys.readouterr().err
  assert 'old.npy: row 200 (id doc200) is not finite' in said
  flags = _files(tmp_path).values()
  assert main.main(['fit', *flags, work, '--methods=rige']) == 2
  assert "did you mean 'ridge'" in capsys.readouterr().err


def test_samples_go_on(tmp_path, capsys):
  flags, out = _files(tmp_path), tmp_path / 'ids.txt'
  command = ['sample', flags['old'], flags['old-ids'], f'--out={out}']
  assert main.main([*command, '--count=30']) == 0
  first = out.read_text().split()
  assert main.main([*command, '--count=20', f'--taken={out}']) == 0
  both = out.read_text().split()
  assert both[:30] == first
  assert len(set(both)) == 50
  assert 'at random' in capsys.readouterr().out


def test_five_lines_of_python(fast):
  old, new, label = forecast_cases.pairs(200)
  gallery = forecast_cases.pairs(400, seed=0)[0]
  upgrade = forecast.Upgrade(**_FAST).fit(old, new, label)
  assert upgrade.transform(gallery).shape == (400, 8)
  first = upgrade.order(gallery)
  uncertainty = upgrade.uncertainty(gallery)
  assert (np.diff(uncertainty[first]) <= 0).all()
  decided = upgrade.decide(400, share=0.2)
  assert decided.verdict in ('do', 'do not', 'cannot tell')
  assert {'low', 'high'} <= set(upgrade.table(400).columns)
  with pytest.raises(ValueError, match='200 old and 199 new'):
    forecast.Upgrade().fit(old, new[:-1])


@pytest.mark.parametrize(
  'sample',
  [
    forecast_cases.sample(120),
    forecast_cases.sample(120, labelled=False),
    forecast_cases.judged(120, 40),
  ],
  ids=['labels', 'agreement', 'judgements'],
)
def test_a_forecast_of_every_truth(fast, sample):
  parts = study.split(sample)
  assert not np.isin(parts.items, parts.fit).any()
  if sample.relevant is not None:
    # What a judging query is judged by is never fitted to.
    mine = np.isin(sample.relevant[0], parts.queries)
    assert np.isin(sample.relevant[1][mine], parts.items).all()
  fits = {'ridge': study.fit('ridge', sample, parts)}
  told = study.run(sample, parts, fits, np.array([0, 0.5, 1]))
  assert told.metrics == sample.metrics
  band = told.bands(500)
  for end in (band.low, band.value, band.high):
    assert ((end >= 0) & (end <= 1)).all()
  if sample.truth == 'agreement':
    np.testing.assert_allclose(band.value[1:, :, -1], 1, rtol=1e-6)
  # Nothing that judges has a part in the pick.
  judged = dataclasses.replace(sample, query_old=None)
  blind = study.run(judged, parts, fits, np.array([0, 0.5, 1]))
  np.testing.assert_array_equal(blind.picks[1:], told.picks[1:])
  assert np.isnan(blind.whole[0]).all()


def test_networks_learn():
  old, new, _ = forecast_cases.pairs(600)
  means = np.mean((new - new.mean(axis=0)) ** 2)
  for method in ('l2', 'l2+u'):
    fitted = fitting.fit(
      method, old[:500], new[:500], hidden_dim=32, max_steps=150, batch_size=64
    )
    aligned, log_variance = fitted.align(old[500:])
    error = np.mean((aligned - new[500:]) ** 2, axis=1)
    assert error.mean() < means / 2
    if log_variance is not None:
      # It says, after few steps roughly, how large the error is.
      assert 1 / 4 < np.exp(log_variance).mean() / error.mean() < 4
  with pytest.raises(ValueError, match='one width'):
    fitting.fit('identity', old, new)
