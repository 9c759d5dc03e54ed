"""The decision by hand-made curves, and what is written about it."""

import numpy as np
import pytest

from fastfill_jax.forecast import decision, page, study

_SHARES = np.array([0, 0.5, 1])


def _forecast(curves, picks, old=0.5, spread=0.0):
  """A forecast of curves [curve, share] with old/old, for 100 items."""
  whole = np.array([[old] * 3, *curves])[:, None]
  halves = np.repeat(whole[None], 4, axis=0)
  draw = np.array([1, -1, -1, 1])[:, None, None, None]
  halves[:, 1:] += spread * draw
  names = [(f'method{i}', 'random') for i in range(len(curves))]
  return study.Forecast(
    curves=[study.OLD, *names],
    metrics=('ndcg@10',),
    shares=_SHARES,
    whole=whole,
    halves=halves,
    factors=np.ones(1),
    refits=np.repeat(whole[None], 2, axis=0),
    quarter_fit=whole,
    picks=np.array([[old] * 3, *picks]),
    items=100,
    pairs=200,
    fit_pairs=100,
  )


def test_picks_on_the_fitting_pairs_alone():
  best = [[0.9, 0.9, 0.9], [0.2, 0.3, 0.4]]
  forecast = _forecast(best, picks=[[0.1, 0.2, 0.4], [0.3, 0.3, 0.3]])
  assert decision.decide(forecast, 100).alignment == 'method1'
  assert decision.decide(forecast, 100, 0.25).alignment == 'method1'
  assert decision.decide(forecast, 100, 0.9).alignment == 'method0'
  assert decision.decide(forecast, 100, curve=1).alignment == 'method0'


def test_overtakes_and_reaches():
  curve = [0.4, 0.6, 0.8]
  decided = decision.decide(_forecast([curve], [curve]), 100, 0.75)
  assert decided.verdict == 'do'
  np.testing.assert_allclose(decided.overtakes, 0.25)
  np.testing.assert_allclose(decided.at_share.value, 0.7)
  np.testing.assert_allclose(decided.over_old.value, 0.2)
  np.testing.assert_allclose(decided.reach[0.9], 0.9)
  assert str(decided.full) == '80.0 (80.0 to 80.0)'


@pytest.mark.parametrize(
  'curve, share, spread, verdict, says',
  [
    ([0.4, 0.6, 0.8], 0.1, 0.0, 'do not', 'From 25% on'),
    ([0.4, 0.3, 0.4], None, 0.0, 'do not', 'never'),
    ([0.4, 0.6, 0.8], 0.3, 0.1, 'cannot tell', 'band holds 0'),
    ([0.4, 0.6, 0.8], 1.0, 0.1, 'do', 'over serving'),
  ],
)
def test_verdicts(curve, share, spread, verdict, says):
  forecast = _forecast([curve], [curve], spread=spread)
  decided = decision.decide(forecast, 100, share)
  assert decided.verdict == verdict
  assert says in decided.says
  if spread:
    np.testing.assert_allclose(
      decided.full.value - decided.full.low, 2.92 * spread, rtol=1e-3
    )


def test_without_an_old_model_nothing_is_promised():
  forecast = _forecast([[0.4, 0.6, 0.8]], [[0.4, 0.6, 0.8]], old=np.nan)
  decided = decision.decide(forecast, 100, 0.2)
  assert decided.verdict == 'cannot tell'
  assert decided.old is None
  assert 'old/old' not in set(page.table(forecast, 100).order)


@pytest.mark.parametrize(
  'text, share',
  [
    ('20%', 0.2),
    ('250', 0.25),
    ('1,000', 1.0),
    ('$50', 0.1),
    ('0.5h', 0.18),
    ('2000%', 1.0),
  ],
)
def test_budgets(text, share):
  parsed = decision.parse_budget(text, 1000, price=0.5, rate=0.1)
  np.testing.assert_allclose(parsed, share)


@pytest.mark.parametrize('text', ['a fifth', '', '$5h', '5%%', '-3'])
def test_wrong_budgets(text):
  with pytest.raises(ValueError, match='give a share'):
    decision.parse_budget(text, 1000)


def test_money_needs_a_price():
  with pytest.raises(ValueError, match='needs --price'):
    decision.parse_budget('$5', 1000)
  with pytest.raises(ValueError, match='needs --rate'):
    decision.parse_budget('5h', 1000)


def test_page_and_figure(tmp_path):
  curve = [0.4, 0.6, 0.8]
  forecast = _forecast([curve], [curve], spread=0.01)
  decided = decision.decide(forecast, 400, 0.1)
  page.write(tmp_path, forecast, 400, decided, ('A note.',), '40')
  text = (tmp_path / 'plan.md').read_text()
  assert text.startswith("# Don't\n")
  assert '40, that is 10.0% backfilled' in text
  assert '- A note.' in text
  assert (tmp_path / 'plan.png').stat().st_size > 10_000
  assert 'too narrow' not in text
  curve = [0.4, 0.99, 0.99]
  easy = page.page(_forecast([curve], [curve]), 400, decided, (), '')
  assert 'too narrow' in easy
  rows = page.table(forecast, 400)
  assert list(rows.columns) == (
    ['alignment', 'order', 'share', 'metric', 'value', 'low', 'high']
  )
  assert set(rows.order) == {'old/old', 'random', 'new/new'}
  assert (rows.low <= rows.value).all()
  assert (rows.value <= rows.high).all()


def test_saved_forecast(tmp_path):
  forecast = _forecast([[0.4, 0.6, 0.8]], [[0.4, 0.6, 0.8]])
  forecast.save(tmp_path / 'x.npz')
  again = study.load(tmp_path / 'x.npz')
  assert again.curves == forecast.curves
  assert again.metrics == forecast.metrics
  np.testing.assert_array_equal(
    again.bands(400).value, forecast.bands(400).value
  )
