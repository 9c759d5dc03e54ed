"""Curves of maps that are known, on made-up embeddings."""

import numpy as np
import pytest
import report_cases
from scipy import stats

from fastfill_jax import curve, parallel, policies, report
from fastfill_jax.methods import method
from fastfill_jax.stages import align, evaluate, serve
from fastfill_jax.storage import arrays, artifact

_SIZE, _STEPS = 60, 4
_POLICIES = ('random', 'sigma', 'entropy', 'class_mean', 'distance', 'gain')
_HOW = parallel.How(None, sweep_backend='numba')


@pytest.fixture
def case(tmp_path, monkeypatch):
  """-> (arrays of gallery and query, embedded, run(maps, fuse) -> result)."""
  monkeypatch.setattr(align, 'load', lambda definition, fitted: fitted)
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(4, 5))
  held = {}
  for split, size, first in (('gallery', _SIZE, 0), ('query', 25, 900)):
    label = rng.integers(4, size=size)
    new = centres[label] + 0.6 * rng.normal(size=(size, 5))
    one = {
      'old': new[:, :4] + 0.5 * rng.normal(size=(size, 4)),
      'new': new,
      'label': label,
      'id': first + np.arange(size),
    }
    for name in ('old', 'new'):
      one[name] = one[name].astype(np.float32)
    for name, array in one.items():
      arrays.write(tmp_path / 'in' / split / name, array, shard_rows=7)
    held[split] = one
  arrays.write(tmp_path / 'in/train/view0/new', held['query']['new'])
  source = artifact.Artifact('embed/source', '', tmp_path / 'in', '')
  embedded = dict.fromkeys(('old', 'new', 'columns'), source)

  def run(maps, fuse=0.0, name='row'):
    evaluate.sweep_references(
      tmp_path, _HOW, embedded=embedded, old='old', new='new', distance='l2'
    )
    directory = tmp_path / f'{name}{fuse}'
    evaluate.evaluate(
      directory,
      _HOW,
      name=name,
      definition={'name': 'ridge'},
      fitted=maps,
      references=artifact.Artifact('references', '', tmp_path, ''),
      embedded=embedded,
      old='old',
      new='new',
      fuse=fuse,
      names=list(_POLICIES),
      steps=_STEPS,
      distance='l2',
      seed=0,
    )
    return report.Result.load(directory)

  return held, embedded, run


def _kernel():
  return np.random.default_rng(5).normal(size=(4, 5)).astype(np.float32)


def _linear(old, side):
  return old @ _kernel(), None


def _of_gallery(held, query, items):
  """The mean scores of queries in a gallery without ties, by their ranks."""
  distance = np.linalg.norm(query[:, None] - items[None], axis=2)
  ranking = np.argsort(distance, axis=1)
  right = held['gallery']['label'][ranking] == held['query']['label'][:, None]
  precision = np.cumsum(right, axis=1) / np.arange(1, len(items) + 1)
  return {
    'mAP': np.mean(np.sum(precision * right, axis=1) / right.sum(axis=1)),
    'cmc@1': np.mean(right[:, 0]),
    'cmc@5': np.mean(right[:, :5].any(axis=1)),
  }


def _assert_ends(result, start, end):
  for metric, values in result.curves.items():
    np.testing.assert_allclose(values[:, 0], start[metric], rtol=1e-5)
    np.testing.assert_allclose(values[:, -1], end[metric], rtol=1e-5)


def test_a_curve_goes_from_aligned_to_new(case):
  held, _, run = case
  result = run(method.Maps(_linear))
  query, items = held['query'], held['gallery']
  new = _of_gallery(held, query['new'], items['new'])
  aligned = items['old'] @ _kernel()
  _assert_ends(result, _of_gallery(held, query['new'], aligned), new)
  assert set(result.references) == {'old/old', 'new/new'}
  old = _of_gallery(held, query['old'], items['old'])
  for metric in curve.METRICS:
    assert result.references['new/new'][metric] == pytest.approx(new[metric])
    assert result.references['old/old'][metric] == pytest.approx(old[metric])
  error = np.sum((aligned - items['new']) ** 2, axis=1)
  np.testing.assert_allclose(result.error, error, rtol=1e-5)
  with np.load(case[1]['old'].directory.parent / 'row0.0/orders.npz') as held:
    oracle = policies.distance(aligned, items['new'])
    np.testing.assert_array_equal(held['distance'], items['id'][oracle])


@pytest.mark.parametrize('fuse', [0.3, 1.0])
def test_a_fused_curve_ends_at_the_fused_gallery(case, fuse):
  held, _, run = case
  result = run(method.Maps(_linear), fuse)
  query, items = held['query'], held['gallery']
  aligned = items['old'] @ _kernel()
  fused = (1 - fuse) * items['new'] + fuse * aligned
  start, end = (_of_gallery(held, query['new'], x) for x in (aligned, fused))
  _assert_ends(result, start, end)
  # The reference is what a whole new gallery would give, all the same.
  new = _of_gallery(held, query['new'], items['new'])
  assert result.references['new/new']['mAP'] == pytest.approx(new['mAP'])


def test_a_map_of_queries_starts_at_the_stored_and_ends_at_the_mapped(case):
  held, _, run = case

  def query_map(new):
    return new @ _kernel().T

  result = run(method.Maps(lambda old, side: (old, None), query_map))
  query, items = held['query'], held['gallery']
  asked, mapped = query_map(query['new']), query_map(items['new'])
  start = _of_gallery(held, asked, items['old'])
  _assert_ends(result, start, _of_gallery(held, asked, mapped))


def test_the_error_of_an_area_is_that_of_the_sweep(case):
  held, _, run = case
  result = run(method.Maps(_linear))
  query, items = held['query'], held['gallery']
  with np.load(case[1]['old'].directory.parent / 'row0.0/orders.npz') as orders:
    orders = [np.array(orders[name]) for name in result.policies]
  swept = curve.sweep(
    *(query['new'], items['old'] @ _kernel(), items['new']),
    *(query['label'], items['label'], np.stack(orders)),
    curve.cutoffs(_SIZE, _STEPS),
    backend='numba',
    per_query=True,
  )
  for metric in curve.METRICS:
    areas = swept['per_query'][metric].mean(axis=1)
    expected = areas.std(axis=1, ddof=1) / areas.shape[1] ** 0.5
    found = result.area_standard_error[metric]
    np.testing.assert_array_equal(found, swept['area_standard_error'][metric])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # The points' errors have no larger mean only where they vary as one.
    assert found[1] < result.standard_error[metric][1].mean()


def test_the_gain_is_above_all_orders_and_they_are_compared_with_it(case):
  _, _, run = case
  result = run(method.Maps(_linear))
  areas = dict(
    zip(result.policies, result.curves['mAP'].mean(axis=1), strict=True)
  )
  assert max(areas, key=areas.get) == 'gain'
  assert result.gain_correlation['gain'] == pytest.approx(1)
  assert abs(result.gain_correlation['random']) < 0.5


def test_policies_without_their_inputs_are_left_out_and_named(case, tmp_path):
  _, embedded, run = case
  without = run(method.Maps(_linear))
  assert without.policies == ('random', 'class_mean', 'distance', 'gain')
  assert without.left_out == {
    'sigma': ('log_variance',),
    'entropy': ('logits',),
  }
  uncertain = run(
    method.Maps(lambda old, side: (old @ _kernel(), old[:, 0])), name='sure'
  )
  assert uncertain.left_out == {'entropy': ('logits',)}
  report.write(
    tmp_path / 'report',
    [without, uncertain],
    **report_cases.WRITTEN | {'main': without.alignment},
  )
  text = (tmp_path / 'report/report.md').read_text('utf-8')
  assert (
    'Not run, for want of what they read: '
    'sigma under row (no log_variance); entropy under row (no logits); '
    'entropy under sure (no logits).'
  ) in text

  # An index serves by the orders there are.
  served = artifact.Artifact('row', '', tmp_path / 'row0.0', '')
  for names, rows in (['sigma', 'random'], 6), (['sigma'], 0):
    serve.serve(
      tmp_path,
      _HOW,
      evaluated=served,
      embedded=embedded,
      new='new',
      policies=names,
      kind='exact',
      k=5,
      steps=_STEPS,
      distance='l2',
      seed=0,
    )
    lines = (tmp_path / 'served.csv').read_text().splitlines()
    assert lines[0].startswith('seed,policy,fraction')
    assert [line.split(',')[1] for line in lines[1:]] == ['random'] * rows


def test_the_error_of_a_gain_is_that_of_a_paired_comparison():
  rng = np.random.default_rng(0)
  precision = rng.random((3, 5, 40))
  precision[:, :, [4, 9]] = np.nan  # Queries of another process, or none
  errors = evaluate._gain_errors(('sigma', 'random', 'entropy'), precision)
  areas = np.delete(precision, [4, 9], axis=2).mean(axis=1)
  for name, area in (('sigma', areas[0]), ('entropy', areas[2])):
    t = stats.ttest_rel(area, areas[1]).statistic
    assert errors[name] == pytest.approx(np.mean(area - areas[1]) / t)
  assert errors['random'] == 0
  assert not evaluate._gain_errors(('sigma',), precision[:1])
