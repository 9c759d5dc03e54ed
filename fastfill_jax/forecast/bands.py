"""A forecast's band, from halves: one rule for queries, items and fits.

A random half of a sample of n is to the whole what the whole is to where it
came from: for a statistic with variance c / n, a half drawn without
replacement deviates from the whole by c / (n / 2) - c / n = c / n. No item is
drawn twice, so no neighbour is its own double, as it would be in a bootstrap
with replacement. Two halves that make up the whole deviate by the same amount
to either side; half their difference is one draw of the error. Queries and
items are halved together (`Sample.halves`), the pairs of a fit by refitting.

The middle of two halves, against the whole, says what size does: halves of
items are a gallery of half the density, refits are fits to half the pairs. The
forecast is for a gallery some doublings as dense, and a fit to all pairs. What
a doubling changes shrinks by a factor from one to the next. For the density it
is taken as known: 1 for what the first k of ever more items hold (1.1 for nDCG,
which a first closer item costs least), and less for labels, whose relevant
items grow with the gallery (0.65 for mAP: its bias falls nearly like 1 / size).
The first is so in probits: a query's item is found while the size times the
share of items that are closer stays small, and over queries the logarithm of
such a share is about normal. For the fit, a fit to a quarter tells. A part of
what is extrapolated is doubted, and widens the band.
"""

import dataclasses

import numpy as np
import scipy.special
import scipy.stats

LEVEL = 0.9
_DOUBT = 0.25  # Standard deviation of what is extrapolated, as a part of it.
_SHARED = 0.7  # Correlation of this doubt over curves.
_EDGE = 1e-4  # Probits are taken no closer to 0 and 1 than this.


@dataclasses.dataclass(frozen=True)
class Band:
  """An estimate and the two ends of its band, arrays of one shape."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
  """An estimate and all that makes it uncertain.

  Attributes:
    value: [curve, metric, share].
    draws: Of its error by queries and items [draw, curve, metric, share].
    fit_draws: Of its error by the pairs fitted to, the same.
    doubts: Standard deviations of what was extrapolated, the same.
  """

  value: np.ndarray
  draws: np.ndarray
  fit_draws: np.ndarray
  doubts: np.ndarray

  def over(self, curve: int) -> 'Estimate':
    """The differences to one of the curves; what both share cancels out."""
    value, draws, fit_draws = (
      x - x[..., curve : curve + 1, :, :]
      for x in (self.value, self.draws, self.fit_draws)
    )
    doubt, other = self.doubts, self.doubts[:, curve : curve + 1]
    square = doubt**2 + other**2 - 2 * _SHARED * doubt * other
    return Estimate(value, draws, fit_draws, np.sqrt(square))

  def band(self, level: float = LEVEL) -> Band:
    """The estimate's band of that level."""
    variance = np.mean(self.draws**2, axis=0)
    variance = variance + np.mean(self.fit_draws**2, axis=0)
    variance = variance + np.sum(self.doubts**2, axis=0)
    factor = scipy.stats.t.ppf((1 + level) / 2, len(self.draws))
    width = factor * np.sqrt(variance)
    return Band(self.value, self.value - width, self.value + width)


def estimate(
  whole: np.ndarray,
  halves: np.ndarray,
  factors: np.ndarray,
  refits: np.ndarray,
  quarter_fit: np.ndarray,
  doublings: float,
  fit_doublings: float,
) -> Estimate:
  """Estimates what the whole gallery will show.

  Args:
    whole: Metrics in [0, 1] of the sample [curve, metric, share].
    halves: Of halves of its queries and items; one after the other makes up
      the whole, [2 * draw, curve, metric, share].
    factors: From what one doubling of the items changes to what the next one
      does, in (0, 1] [metric].
    refits: Of the sample, under alignments fitted to halves of the pairs,
      [2 * draw, curve, metric, share].
    quarter_fit: Of the sample, under alignments fitted to a quarter of them,
      [curve, metric, share].
    doublings: log2 of the items there will be over those in the sample.
    fit_doublings: log2 of the pairs that will be fitted to over those that
      were.
  """
  before, last = (
    scipy.special.ndtri(np.clip(x, _EDGE, 1 - _EDGE))
    for x in (halves.mean(axis=0), whole)
  )
  change = (last - before) * _to_come(factors, doublings)[:, None]
  # What does not change stays as it is, whatever the edge.
  now, then = (scipy.special.ndtr(x) for x in (last, last + change))
  denser = then - now
  steep = np.exp((last**2 - (last + change) ** 2) / 2)
  better = _better(quarter_fit, refits.mean(axis=0), whole, fit_doublings)
  return Estimate(
    value=whole + denser + steep * better,
    draws=steep * (halves[::2] - halves[1::2]) / 2,
    fit_draws=steep * (refits[::2] - refits[1::2]) / 2,
    doubts=_DOUBT * np.stack([denser, steep * better]),
  )


def _to_come(factor, doublings):
  """Sums factor^1 .. factor^doublings, for broken numbers of them too."""
  factor = np.where(np.abs(factor - 1) < 1e-3, 0.999, factor)
  return factor * (1 - factor**doublings) / (1 - factor)


def _better(quarter, half, whole, doublings):
  """What the doublings of the pairs to come change; a factor a curve."""
  before, last = half - quarter, whole - half
  product = np.nansum(last * before, axis=(1, 2), keepdims=True)
  square = np.nansum(before**2, axis=(1, 2), keepdims=True)
  factor = product / np.where(square > 0, square, 1)
  return last * _to_come(np.clip(factor, 0.5, 1), doublings)
