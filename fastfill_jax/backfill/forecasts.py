"""What a plan expects of a share of the backfill: forecast.csv, if it has one.

Columns alignment, order, share, metric, value, low, high; the rows of the
order 'old/old' are the old model's quality on its own gallery.
"""

import csv

import numpy as np

_OLD = 'old/old'
_COLUMNS = ('order', 'share', 'metric', 'value', 'low', 'high')


class Forecast:
  """A curve with its band for every metric.

  Attributes:
    metrics: Their names, the first is the one that decides.

  Raises:
    ValueError: If the file lacks a column or the policy's rows.
  """

  def __init__(self, path, policy: str):
    with open(path, newline='') as file:
      rows = list(csv.DictReader(file))
    missing = [c for c in _COLUMNS if rows and c not in rows[0]]
    ours = [row for row in rows if row.get('order') == policy]
    if missing or not ours:
      raise ValueError(
        f'{path} has no {missing or [policy]}: a forecast has the columns '
        f'{", ".join(_COLUMNS)} and rows of the order {policy!r}.'
      )
    self._curves, self._old = {}, {}
    for row in ours:
      point = [float(row[name]) for name in ('share', 'value', 'low', 'high')]
      self._curves.setdefault(row['metric'], []).append(point)
    for row in rows:
      if row['order'] == _OLD:
        self._old[row['metric']] = float(row['value'])
    self._curves = {
      metric: np.array(sorted(points))
      for metric, points in self._curves.items()
    }
    self.metrics = tuple(self._curves)

  def curve(self, metric: str) -> np.ndarray:
    """[point, (share, value, low, high)]."""
    if metric not in self._curves:
      raise ValueError(
        f'The forecast has no {metric!r}; it has {", ".join(self.metrics)}.'
      )
    return self._curves[metric]

  def old(self, metric: str) -> float | None:
    """The old model's quality, if it is known."""
    return self._old.get(metric)

  def at(self, metric: str, share: float) -> tuple[float, float, float]:
    """Value, low, high at a share, straight between the curve's points."""
    curve = self.curve(metric)
    return tuple(
      float(np.interp(share, curve[:, 0], curve[:, i])) for i in (1, 2, 3)
    )

  def overtakes(self, metric: str) -> float | None:
    """The share from which the mixed gallery is better than the old one.

    0.0: from the start; 1.0 at the latest; None: never or not known.
    """
    old = self.old(metric)
    return None if old is None else self._first(metric, old)

  def share_for(self, metric: str, quality: float) -> float:
    """The share that has this part of the full backfill's quality.

    Raises:
      ValueError: If no share has.
    """
    share = self._first(metric, quality * self.at(metric, 1.0)[0])
    if share is None:
      raise ValueError(
        f'No share is forecast to reach {quality:g} of {metric}.'
      )
    return share

  def _first(self, metric, value):
    curve = self.curve(metric)
    reached = np.flatnonzero(curve[:, 1] >= value)
    if not len(reached):
      return None
    i = reached[0]
    if i == 0:
      return float(curve[0, 0])
    (x0, y0), (x1, y1) = curve[i - 1, :2], curve[i, :2]
    return float(x0 + (value - y0) / (y1 - y0) * (x1 - x0))
