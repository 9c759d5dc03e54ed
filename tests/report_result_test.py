import dataclasses

import numpy as np
import pytest
import report_cases

from fastfill_jax import report
from fastfill_jax.report import result, summary


def equal(a, b):
  """Whether two results agree to the last bit."""
  return all(
    _same(getattr(a, field.name), getattr(b, field.name))
    for field in dataclasses.fields(a)
  )


def _same(a, b):
  if isinstance(a, dict):
    return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
  if isinstance(a, np.ndarray):
    return a.dtype == b.dtype and np.array_equal(a, b)
  return a == b


def test_a_result_survives_saving_to_the_last_bit(tmp_path):
  for one in report_cases.many(1):
    one.save(tmp_path)
    assert equal(report.Result.load(tmp_path), one)
  assert {path.name for path in tmp_path.iterdir()} == {
    'result.json',
    'result.npz',
  }


def test_a_result_half_written_is_not_there(tmp_path, monkeypatch):
  def full_disk(*_, **__):
    raise OSError('No space left on device')

  first, second = report_cases.many(1)
  first.save(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(result.np, 'savez_compressed', full_disk)
    with pytest.raises(OSError, match='No space'):
      second.save(tmp_path)
  with pytest.raises(FileNotFoundError):
    report.Result.load(tmp_path)
  second.save(tmp_path)
  assert equal(report.Result.load(tmp_path), second)


@pytest.mark.parametrize('name', ['result.json', 'result.npz'])
def test_a_cut_result_says_so(tmp_path, name):
  report_cases.many(1)[0].save(tmp_path)
  path = tmp_path / name
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='damaged'):
    report.Result.load(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'curves': report_cases.scores(np.zeros((1, 3)))},
      r"curves\['mAP'\].*\(1, 2\)",
    ),
    (
      {'curves': report_cases.scores(np.array([[np.nan, 1.0]]))},
      r"curves\['mAP'\] must be finite",
    ),
    ({'negative_flips': np.zeros(2)}, 'negative_flips must be .*policy'),
    (
      {'groups': {'rare': report_cases.scores(np.zeros((1, 3)))}},
      r"groups\['rare'\].*\(1, 3\)",
    ),
  ],
)
def test_a_wrong_result_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    report_cases.make({'random': [0.2, 0.8]}, **changes)


def test_small_galleries_repeat_fractions():
  one = report_cases.make(
    {'random': [0.2, 0.2, 0.8]}, fractions=np.array([0.0, 0.0, 1.0])
  )
  assert len(summary.curves([one])) == 3


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'seed': 0}, 'Two results'),
    ({'fractions': np.array([0.0, 0.4, 1.0])}, 'has fractions'),
    ({'policies': ('sigma', 'random')}, 'has policies'),
    (
      {
        'seed': 0,
        'alignment': 'fct',
        'references': {
          'old/old': report_cases.scores(0.2),
          'new/new': report_cases.scores(0.8),
        },
      },
      'has references .* of one run',
    ),
  ],
)
def test_results_of_different_runs_are_not_mixed(change, message):
  curves = {'random': [0.2, 0.5, 0.8], 'sigma': [0.2, 0.6, 0.8]}
  first = report_cases.make(curves)
  other = dataclasses.replace(first, **{'seed': 1} | change)
  with pytest.raises(ValueError, match=message):
    result.check([first, other])
  with pytest.raises(ValueError, match='No results'):
    result.check([])
