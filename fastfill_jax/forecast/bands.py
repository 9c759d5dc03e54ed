"""A forecast's band, from halves: one rule for queries, items and fits.

A random half of a sample of n is to the whole what the whole is to where it
came from: for a statistic with variance c / n, a half drawn without
replacement deviates from the whole by c / (n / 2) - c / n = c / n. No item is
drawn twice, so no neighbour is its own double, as it would be in a bootstrap
with replacement. Two halves that make up the whole deviate by the same amount
to either side; half their difference is one draw of the error. Queries and
items are halved together (`Sample.halves`), the pairs of a fit by refitting.

The middle of two halves, against the whole, says what size does: halves of
items are a gallery of half the density, refits are fits to half the pairs.
What is forecast is a gallery some doublings as dense as the sample, and a fit
to all pairs, whose remaining error is taken to fall like 1 / pairs. What a
doubling of the gallery changes shrinks by a factor from one to the next: 1/2
where a sample's bias falls like 1 / items (the mAP of labels), 1 where a metric
falls with the logarithm (the first k of ever more items); quarters tell.
"""

import dataclasses

import numpy as np
import scipy.stats

LEVEL = 0.9


@dataclasses.dataclass(frozen=True)
class Band:
  """An estimate and the two ends of its band, arrays of one shape."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


def band(
  whole: np.ndarray,
  halves: np.ndarray,
  refits: np.ndarray,
  to_come: np.ndarray | float = 0.0,
  pair_share: float = 0.5,
  level: float = LEVEL,
) -> Band:
  """Estimates what the whole gallery will show, and how sure that is.

  Args:
    whole: A statistic of the sample [...].
    halves: Of halves of its queries and items; one after the other makes up
      the whole, [2 * draw, ...].
    refits: Of the sample, under alignments fitted to halves of the pairs,
      [2 * draw, ...].
    to_come: What the gallery's growth changes, in units of what the last
      doubling changed, from `still_to_come`.
    pair_share: Share of the pairs that `whole`'s alignment was fitted to.
    level: Of the band.

  Returns:
    The band [...].
  """
  spread, middle = _split(halves)
  fit_spread, fit_middle = _split(refits)
  density = whole - middle.mean(axis=0)
  growth = whole - fit_middle.mean(axis=0)
  value = whole + to_come * density + (1 - pair_share) * growth
  variance = np.mean(spread**2, axis=0) + np.mean(fit_spread**2, axis=0)
  # What is extrapolated is known as well as the draws agree on it, and a
  # quarter of it is not trusted to follow its law.
  if len(middle) > 1:
    variance += to_come**2 * middle.var(axis=0, ddof=1) / len(middle)
  doubt = to_come * density, (1 - pair_share) * growth
  variance += sum((x / 4) ** 2 for x in doubt)
  width = np.sqrt(variance) * scipy.stats.t.ppf((1 + level) / 2, len(spread))
  return Band(value, value - width, value + width)


def still_to_come(
  whole: np.ndarray,
  halves: np.ndarray,
  quarters: np.ndarray,
  doublings: float,
) -> np.ndarray:
  """Sums up the changes of all doublings still to come.

  Args:
    whole: A statistic of the sample [curve, metric, share].
    halves: Of its halves [half, curve, metric, share].
    quarters: Of its quarters [quarter, curve, metric, share].
    doublings: log2 of the items there will be over those in the sample.

  Returns:
    In units of the last doubling's change, [metric, 1].
  """
  last = whole - halves.mean(axis=0)
  before = halves.mean(axis=0) - quarters.mean(axis=0)
  product = np.nansum(last * before, axis=(0, 2))
  square = np.nansum(before**2, axis=(0, 2))
  ratio = np.where(square > 0, product / np.where(square > 0, square, 1), 1)
  ratio = np.clip(ratio, 0.5, 0.999)
  return (ratio * (1 - ratio**doublings) / (1 - ratio))[:, None]


def _split(statistic):
  """Half the differences of two halves, and their middles [draw, ...]."""
  first, second = statistic[::2], statistic[1::2]
  return (first - second) / 2, (first + second) / 2
