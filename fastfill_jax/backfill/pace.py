"""How fast and how far: rate limits, and where a backfill ends."""

import dataclasses
import re
import threading
import time

_UNITS = {'s': 1.0, 'min': 60.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}


class RateLimit:
  """At most so many a second, for many threads.

  Who comes too early is told how long to wait; nothing is let through in a
  burst later because nobody came for a while.
  """

  def __init__(self, per_second: float, clock=time.monotonic):
    if not per_second > 0:
      raise ValueError(f'A rate of {per_second} a second is not positive.')
    self._per_second, self._clock = per_second, clock
    self._next = 0.0
    self._lock = threading.Lock()

  def reserve(self, amount: float) -> float:
    """Books an amount; returns the seconds to wait before using it."""
    with self._lock:
      now = self._clock()
      start = max(self._next, now)
      self._next = start + amount / self._per_second
      return start - now


def parse_rate(text: str) -> float:
  """'600/min' in units a second.

  Raises:
    ValueError: If it is no rate.
  """
  match = re.fullmatch(r'([\d.]+)\s*/\s*(s|min|m|h|d)', text.strip())
  if not match or not float(match[1]) > 0:
    raise ValueError(f'{text!r} is no rate, as 50/s, 600/min or 10000/h.')
  return float(match[1]) / _UNITS[match[2]]


@dataclasses.dataclass(frozen=True)
class Until:
  """Where a backfill ends; without any, when nothing is left.

  Attributes:
    items: So many items are new, those of earlier calls included.
    dollars: So much was paid, by the journal.
    seconds: So long this call took.
  """

  items: int | None = None
  dollars: float | None = None
  seconds: float | None = None


def parse_until(text: str | None, count: int, forecast, metric) -> Until:
  """Reads '30%', '5000', '$50', '6h' or 'quality 0.95'.

  Args:
    text: None: until nothing is left.
    count: The plan's items.
    forecast: The plan's, or None.
    metric: Whose quality; None: the forecast's first.

  Raises:
    ValueError: If it is none of them, or there is no forecast to read.
  """
  if text is None:
    return Until()
  number = r'(\d+(?:\.\d+)?)'
  text = text.strip()
  if match := re.fullmatch(number + '%', text):
    if float(match[1]) <= 100:
      return Until(items=round(float(match[1]) / 100 * count))
  elif match := re.fullmatch(r'(\d+)( items)?', text):
    return Until(items=int(match[1]))
  elif match := re.fullmatch(r'\$' + number, text):
    return Until(dollars=float(match[1]))
  elif match := re.fullmatch(number + r'(s|min|m|h|d)', text):
    return Until(seconds=float(match[1]) * _UNITS[match[2]])
  elif match := re.fullmatch(r'quality[ =]' + number, text):
    if forecast is None:
      raise ValueError('The plan has no forecast.csv to read a quality from.')
    share = forecast.share_for(metric or forecast.metrics[0], float(match[1]))
    return Until(items=round(share * count))
  raise ValueError(
    f"--until {text!r} is none of 30%, 5000, $50, 6h, 'quality 0.95'."
  )
