"""Plans, forecasts, limits and the journal, by hand-worked values."""

import json

import backfill_cases as cases
import numpy as np
import pytest

from fastfill_jax.backfill import forecasts, journal, pace, plan
from fastfill_jax.stores import shards

IDS = np.arange(40) * 3 + 1


@pytest.fixture
def folder(tmp_path):
  return cases.write_plan(tmp_path / 'plan', IDS)


def test_rows_of_ids(folder):
  planned = plan.Plan(folder)
  found = planned.rows(np.array([1, 2, 118, 0, 10**12]))
  assert found.tolist() == [0, -1, 39, -1, -1]
  assert planned.rows(np.array(['1'])).tolist() == [-1]
  assert planned.rows(np.zeros(0, np.int64)).tolist() == []
  assert (planned.aligned_space, planned.new_space) == (
    cases.ALIGNED,
    cases.NEW,
  )


def test_the_digest_is_of_the_order_too(folder):
  before = plan.Plan(folder).digest
  assert plan.Plan(folder).digest == before
  order = shards.ShardedArray(folder / 'order')[:]
  shards.write(folder / 'order', order[::-1].copy())
  assert plan.Plan(folder).digest != before


def _edit(folder, **values):
  settings = json.loads((folder / 'plan.json').read_text())
  settings.update(values)
  (folder / 'plan.json').write_text(json.dumps(settings))


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda f: (f / 'plan.json').unlink(), 'no plan.json'),
    (lambda f: _edit(f, format=2), 'must have format 1'),
    (lambda f: _edit(f, count=41), 'plan.json says'),
    (lambda f: _edit(f, new_dim=7), 'plan.json says'),
    (lambda f: _edit(f, distance='dot'), "'dot' is none of"),
    (lambda f: shards.write(f / 'order', np.zeros(40, int)), 'permutation'),
    (lambda f: shards.write(f / 'id', np.zeros(40, int)), 'unique'),
    (lambda f: (f / 'forecast.csv').write_text('a,b\n1,2\n'), 'has no'),
  ],
)
def test_a_plan_that_does_not_fit_is_refused(folder, spoil, message):
  spoil(folder)
  with pytest.raises(ValueError, match=message):
    plan.Plan(folder)


def test_forecast(folder):
  # Points (0, .4), (.5, .6), (1, .8); the old model has .5.
  forecast = forecasts.Forecast(folder / 'forecast.csv', 'sigma')
  assert forecast.metrics == ('mAP',)
  assert forecast.at('mAP', 0.25) == pytest.approx((0.5, 0.48, 0.52))
  assert forecast.overtakes('mAP') == pytest.approx(0.25)
  assert forecast.share_for('mAP', 0.5 / 0.8) == pytest.approx(0.25)
  assert forecast.share_for('mAP', 1.0) == pytest.approx(1.0)
  assert forecast.share_for('mAP', 0.1) == 0.0
  with pytest.raises(ValueError, match='it has mAP'):
    forecast.at('recall', 0.5)
  with pytest.raises(ValueError, match=r"\['tau'\]"):
    forecasts.Forecast(folder / 'forecast.csv', 'tau')


def test_a_forecast_that_never_overtakes(tmp_path):
  path = tmp_path / 'f.csv'
  path.write_text(
    'order,share,metric,value,low,high\n'
    'p,0,m,.1,.1,.1\np,1,m,.2,.2,.2\nold/old,0,m,.3,.3,.3\n'
  )
  assert forecasts.Forecast(path, 'p').overtakes('m') is None


@pytest.mark.parametrize(
  'text, expected',
  [
    (None, {}),
    ('30%', {'items': 12}),
    ('100%', {'items': 40}),
    ('17', {'items': 17}),
    ('17 items', {'items': 17}),
    ('$2.5', {'dollars': 2.5}),
    ('90s', {'seconds': 90.0}),
    ('1.5h', {'seconds': 5400.0}),
    ('quality 0.75', {'items': 20}),  # .6 of .8, at a half
    ('quality=0.75', {'items': 20}),
  ],
)
def test_until(folder, text, expected):
  forecast = forecasts.Forecast(folder / 'forecast.csv', 'sigma')
  found = pace.parse_until(text, 40, forecast, None)
  assert found == pace.Until(**expected)


def test_quality_needs_a_forecast():
  with pytest.raises(ValueError, match=r'forecast\.csv'):
    pace.parse_until('quality 0.9', 40, None, None)


def test_rates():
  assert pace.parse_rate('50/s') == 50
  assert pace.parse_rate('600/min') == 10
  assert pace.parse_rate('7200 / h') == 2
  for text in ('50', '0/s', '-1/s', 'fast', '5/week'):
    with pytest.raises(ValueError, match='no rate'):
      pace.parse_rate(text)


def test_a_rate_limit_spaces_its_users():
  now = [100.0]
  limit = pace.RateLimit(10.0, clock=lambda: now[0])
  assert limit.reserve(5) == 0.0  # books half a second
  assert limit.reserve(1) == pytest.approx(0.5)
  now[0] = 100.4
  assert limit.reserve(1) == pytest.approx(0.2)
  now[0] = 200.0  # no burst for the pause
  assert limit.reserve(5) == 0.0
  assert limit.reserve(1) == pytest.approx(0.5)


BATCH = {'embedded': 5, 'written': 4, 'seconds': 0.5, 'cost': 0.25, 'new': 4}


def test_journal_counts_and_survives_a_torn_line(tmp_path):
  path = tmp_path / 'journal.jsonl'
  kept = journal.Journal(path)
  kept.append('start', plan='abc', counts={})
  kept.append('batch', **BATCH, failed=[[7, 'no such image']])
  kept.append('batch', **BATCH, failed=[])
  with open(path, 'ab') as file:
    file.write(b'{"event": "batch", "embed')  # killed here
  again = journal.Journal(path)
  assert (again.cost, again.embedded, again.seconds) == (0.5, 10, 1.0)
  assert again.quarantine == {7: 'no such image'}
  again.append('filled', items=3)
  last = journal.Journal(path)
  assert last.filled and last.embedded == 10 and len(last.events) == 4
  last.append('retry')
  assert not journal.Journal(path).quarantine


def test_a_journal_belongs_to_its_plan(tmp_path):
  kept = journal.Journal(tmp_path / 'j')
  kept.check('abc')
  kept.append('start', plan='abc', counts={})
  kept.check('abc')
  with pytest.raises(ValueError, match='belongs to plan abc, this is abd'):
    kept.check('abd')
