"""The decision: what to backfill by, how far, or not at all.

The alignment and the order are picked on the fitting pairs, by what they give
at the share that can be afforded, or on average over the backfill. What is said
about them comes from the judging pairs, which had no part in it.
"""

import dataclasses
import re

import numpy as np

from fastfill_jax.forecast import study

GAINS = (0.9, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class Point:
  """A forecast with the ends of its band."""

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    value, low, high = (f'{100 * x:.1f}' for x in dataclasses.astuple(self))
    return f'{value} ({low} to {high})'


@dataclasses.dataclass(frozen=True)
class Decision:
  """What to do, and why.

  Attributes:
    alignment: A method.
    order: Which items first.
    metric: What everything here is said in.
    share: Of the backfill that can be afforded, or None.
    at_share: The forecast there, if there is a share.
    aligned: With nothing backfilled.
    full: With everything backfilled.
    old: Of serving the old model, or None.
    over_old: What the affordable share (or else everything) has over old/old.
    overtakes: From which share on the mixed gallery is forecast to be at least
      as good as old/old; None if it never is.
    overtakes_surely: The same for the lower end of the band.
    reach: {part of the gain from nothing to everything: (share, earliest,
      latest)}.
    verdict: 'do', 'do not' or 'cannot tell'.
    says: The verdict in a sentence or two.
  """

  alignment: str
  order: str
  metric: str
  share: float | None
  at_share: Point | None
  aligned: Point
  full: Point
  old: Point | None
  over_old: Point | None
  overtakes: float | None
  overtakes_surely: float | None
  reach: dict[float, tuple[float, float, float]]
  verdict: str
  says: str


def parse_budget(
  text: str, gallery: int, price: float | None = None, rate: float | None = None
) -> float:
  """The share of a gallery that a budget buys.

  Args:
    text: '20%', '200000' items, '$500' or '6h'.
    gallery: Items.
    price: Of one item's new embedding, in the budget's money.
    rate: New embeddings a second.

  Raises:
    ValueError: If it is none of these, or what it needs is missing.
  """
  match = re.fullmatch(r'(\$?)([0-9][0-9_,]*\.?[0-9]*)(%|h?)', text.strip())
  if not match or (match[1] and match[3]):
    raise ValueError(
      f'budget={text!r}; give a share (20%), items (200000), money ($500) or '
      'hours (6h).'
    )
  number = float(match[2].replace(',', '').replace('_', ''))
  if match[3] == '%':
    items = number / 100 * gallery
  elif match[1]:
    items = number / _needed(price, 'price', 'dollars an item', text)
  elif match[3] == 'h':
    items = number * 3600 * _needed(rate, 'rate', 'items a second', text)
  else:
    items = number
  return min(items / gallery, 1.0)


def _needed(value, name, unit, text):
  if value is None or value <= 0:
    raise ValueError(f'budget={text!r} needs --{name}, {unit}, above 0.')
  return value


def pick(forecast: study.Forecast, share: float | None = None) -> int:
  """The curve that was best on the fitting pairs.

  Args:
    forecast: Of all curves.
    share: That can be afforded; None for the mean over all shares.

  Returns:
    Its number in `forecast.curves`.
  """
  curves = forecast.picks[1:]
  if share is None:
    # Shares are not evenly spaced.
    values = np.trapezoid(curves, forecast.shares, axis=1)
  else:
    values = [np.interp(share, forecast.shares, curve) for curve in curves]
  return 1 + int(np.argmax(values))


def decide(
  forecast: study.Forecast,
  gallery: int,
  share: float | None = None,
  curve: int | None = None,
) -> Decision:
  """Decides for a gallery of so many items, of which a share can be afforded.

  Args:
    forecast: Of all curves.
    gallery: Items.
    share: That can be afforded; None: any.
    curve: Takes this curve in place of the picked one.
  """
  number = pick(forecast, share) if curve is None else curve
  shares = forecast.shares
  levels, gains = (
    forecast.bands(gallery, over_old=over_old) for over_old in (False, True)
  )
  mine = [x[number, 0] for x in (levels.value, levels.low, levels.high)]
  over = [x[number, 0] for x in (gains.value, gains.low, gains.high)]
  known = bool(np.isfinite(over[0]).all())
  fields = {
    'share': share,
    'at_share': None if share is None else _at(share, shares, mine),
    'aligned': _at(0.0, shares, mine),
    'full': _at(1.0, shares, mine),
    'old': None,
    'over_old': None,
    'overtakes': None,
    'overtakes_surely': None,
  }
  if known:
    old = (x[0, 0] for x in (levels.value, levels.low, levels.high))
    fields |= {
      'old': _at(0.0, shares, list(old)),
      'over_old': _at(1.0 if share is None else share, shares, over),
      'overtakes': crossing(shares, over[0]),
      'overtakes_surely': crossing(shares, over[1]),
    }
  verdict, says = _verdict(fields)
  alignment, order = forecast.curves[number]
  return Decision(
    alignment=alignment,
    order=order,
    metric=forecast.metrics[0],
    reach={gain: _reach(shares, mine, gain) for gain in GAINS},
    verdict=verdict,
    says=says,
    **fields,
  )


def _at(share, shares, ends):
  return Point(*(float(np.interp(share, shares, end)) for end in ends))


def crossing(shares: np.ndarray, over: np.ndarray) -> float | None:
  """From where on a curve stays at 0 or above; None if it ends below."""
  below = np.flatnonzero(over < 0)
  if not below.size:
    return float(shares[0])
  last = below[-1]
  if last + 1 == len(shares):
    return None
  ends = slice(last, last + 2)
  return float(np.interp(0, over[ends], shares[ends]))


def _reach(shares, ends, gain):
  """Share at which a part of the gain is reached, and its band's."""
  goal = ends[0][0] + gain * (ends[0][-1] - ends[0][0])
  found = [crossing(shares, end - goal) for end in (ends[0], ends[2], ends[1])]
  return tuple(1.0 if share is None else share for share in found)


def _verdict(fields):
  """-> 'do', 'do not' or 'cannot tell', and why."""
  over, crossed = fields['over_old'], fields['overtakes']
  if over is None:
    return 'cannot tell', (
      "Nothing is known about serving the old model: give the queries' old "
      'embeddings, and this page says whether the backfill is worth it.'
    )
  where = 'a full backfill'
  if fields['share'] is not None:
    where = f'{fields["share"]:.0%} backfilled'
  gain = f'{where} is forecast {Point(*dataclasses.astuple(over))} points'
  if over.low >= 0:
    return 'do', f'{gain} over serving the old model.'
  if over.high >= 0:
    return 'cannot tell', (
      f'{gain} over serving the old model: the band holds 0. More queries or '
      'pairs would narrow it.'
    )
  later = (
    f'From {crossed:.0%} on it would be as good.'
    if crossed is not None
    else 'It never gets as good, not even when all is backfilled.'
  )
  return 'do not', (
    f'{gain} over serving the old model, which is a loss. {later} Until then '
    'serve the old model.'
  )
