"""Halves, and the band that they give."""

import forecast_cases
import numpy as np
import pytest
import scipy.stats

from fastfill_jax.forecast import bands, truths


def test_halves_make_up_the_whole_and_keep_what_belongs_together():
  rng = np.random.default_rng(0)
  sample = forecast_cases.sample(41)
  first, second = sample.halves(rng)
  for side in (0, 1):  # Queries, then items.
    both = np.sort(np.concatenate([first[side], second[side]]))
    np.testing.assert_array_equal(both, np.arange(41))
  np.testing.assert_array_equal(first[0], first[1])
  judged = forecast_cases.judged()
  for queries, items in judged.halves(rng):
    assert np.isin(
      judged.relevant[1][np.isin(judged.relevant[0], queries)], items
    ).all()
    assert abs(len(items) - 120) <= 8


def test_take_numbers_anew():
  judged = forecast_cases.judged()
  part = judged.take(np.array([3, 7]), np.array([7, 63, 3, 9]))
  np.testing.assert_array_equal(part.relevant, [[0, 1, 0], [2, 0, 1]])
  np.testing.assert_array_equal(part.grade, [2, 2, 1])
  items = forecast_cases.sample(20).take(np.array([4, 5]), np.array([5, 6]))
  np.testing.assert_array_equal(items.query_item, [-1, 0])


def _estimate(values, doublings=0.0):
  """Of means, by halves, as if they were metrics."""
  rng = np.random.default_rng(0)
  halves = []
  for _ in range(200):
    shuffled = rng.permutation(values)
    halves += [part.mean() for part in np.split(shuffled, 2)]
  whole = np.full((1, 1, 1), values.mean())
  halves = np.reshape(halves, (-1, 1, 1, 1))
  same = np.repeat(whole[None], 2, axis=0)
  return bands.estimate(whole, halves, np.ones(1), same, whole, doublings, 0.0)


def test_the_band_of_a_mean_is_its_standard_error():
  values = np.random.default_rng(1).uniform(0.2, 0.8, 400)
  estimate = _estimate(values)
  spread = np.sqrt(np.mean(estimate.draws**2))
  np.testing.assert_allclose(spread, values.std() / 20, rtol=0.15)
  band = estimate.band()
  np.testing.assert_allclose(band.high - band.value, 1.65 * spread, rtol=0.02)
  np.testing.assert_allclose(band.value, values.mean())


def _sizes(half, whole, factor, doublings):
  """The value of a curve without noise."""
  shape = (1, 1, 1)
  whole = np.full(shape, whole)
  halves = np.full((4, *shape), half)
  same = np.repeat(whole[None], 2, axis=0)
  estimate = bands.estimate(
    whole, halves, np.array([factor]), same, whole, doublings, 0.0
  )
  return float(estimate.value[0, 0, 0]), estimate


def test_density_goes_on_in_probits():
  # At a half and the whole: 0 and -0.5 come next.
  half, whole, _, then = scipy.stats.norm.cdf([1.0, 0.5, 0.0, -0.5])
  value, estimate = _sizes(half, whole, 1.0, 2.0)
  np.testing.assert_allclose(value, then, rtol=1e-2)
  assert (estimate.doubts[0] != 0).all()
  # By a factor of a half, all doublings together change what the last one did.
  value, _ = _sizes(half, whole, 0.5, 30.0)
  np.testing.assert_allclose(value, 0.5, rtol=1e-6)
  # Half the density is the half.
  value, _ = _sizes(half, whole, 0.7, -1.0)
  np.testing.assert_allclose(value, half, rtol=1e-6)
  assert _sizes(1.0, 1.0, 1.0, 5.0)[0] == 1


def test_refits_go_on_by_their_own_factor():
  # A quarter, a half, all: 0.3, 0.5, 0.6. The next is half of the last step.
  shape = (1, 1, 1)
  whole, half, quarter = (np.full(shape, x) for x in (0.6, 0.5, 0.3))
  estimate = bands.estimate(
    whole,
    np.repeat(whole[None], 4, axis=0),
    np.ones(1),
    np.repeat(half[None], 2, axis=0),
    quarter,
    0.0,
    1.0,
  )
  np.testing.assert_allclose(estimate.value, 0.65)


def test_what_curves_share_cancels_in_a_difference():
  rng = np.random.default_rng(0)
  common = rng.normal(0, 0.1, (20, 1, 1, 1))
  own = rng.normal(0, 0.01, (20, 2, 1, 1))
  whole = np.full((2, 1, 1), 0.5)
  halves = 0.5 + common + own
  halves[1::2] = 1 - halves[::2]
  same = np.repeat(whole[None], 2, axis=0)
  estimate = bands.estimate(whole, halves, np.ones(1), same, whole, 0.0, 1.0)
  alone, over = estimate.band(), estimate.over(0).band()
  assert over.high[1] - over.low[1] < (alone.high[1] - alone.low[1]) / 4
  assert over.high[0] == over.low[0] == 0


def test_old_over_old_is_a_search_in_the_old_space():
  sample = forecast_cases.sample(60)
  old = truths.measure_old(sample)
  score = sample.old @ sample.old.T
  np.fill_diagonal(score, -np.inf)
  first = sample.item_label[score.argmax(axis=1)]
  np.testing.assert_allclose(old[1], np.mean(first == sample.item_label))


@pytest.mark.parametrize('labelled', [True, False])
def test_a_mixed_gallery_ends_at_the_new_one(labelled):
  sample = forecast_cases.sample(80, labelled=labelled)
  orders = np.arange(80)[None]
  values = truths.measure(sample, sample.new, orders, np.array([0, 0.5, 1]))
  np.testing.assert_array_equal(values[..., 0], values[..., 2])
  if not labelled:
    np.testing.assert_allclose(values, 1, rtol=1e-6)
