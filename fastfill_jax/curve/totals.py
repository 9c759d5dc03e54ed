"""Means over queries, and how sure they are."""

import threading
from typing import Any

import numpy as np

from fastfill_jax import parallel

METRICS = ('mAP', 'cmc@1', 'cmc@5')
_RANKS = (1, 5)
# Sums over queries are integers, in this unit: no block size, thread or
# process changes them by a bit.
_UNIT = 2.0**-40


class Totals:
  """Sums over queries of the metrics, of the areas, and of their squares.

  Args:
    shape: Numbers of policies and of cut-offs.
    inverse: Place of each cut-off among the different ones [cutoff].
    queries: Number of queries if their own results are wanted, else 0.
  """

  def __init__(self, shape, inverse, queries):
    self._inverse = inverse
    self._count = np.zeros(1, np.int64)
    self._points = np.zeros((2, len(METRICS), *shape), np.int64)
    self._areas = np.zeros((2, len(METRICS), shape[0]), np.int64)
    shape = len(METRICS), *shape, queries
    self._per_query = np.full(shape, np.nan, np.float32)
    self._lock = threading.Lock()

  def add(self, queries, average_precision, closer):
    """Adds a block of queries; threads may call it at once.

    Args:
      queries: Their numbers [block].
      average_precision: float [policy, distinct cutoff, block].
      closer: Irrelevant items at least as close as the closest relevant one,
        int [policy, distinct cutoff, block].
    """
    values = [average_precision, *(closer < k for k in _RANKS)]
    for metric, value in enumerate(values):
      value = value[:, self._inverse]
      points = _sums(value)
      areas = _sums(value.mean(axis=1, dtype=np.float64))
      with self._lock:
        self._points[:, metric] += points
        self._areas[:, metric] += areas
      if self._per_query.size:
        self._per_query[metric][..., queries] = value
    with self._lock:
      self._count += len(queries)

  def gather(self):
    """Adds up the shares of all processes."""
    for name in ('_count', '_points', '_areas'):
      shares = parallel.gather(getattr(self, name))
      setattr(self, name, shares.sum(axis=0))

  def result(self) -> dict[str, Any]:
    """Returns what `curve.sweep` returns."""
    count = int(self._count[0])
    mean, error = _moments(self._points, count)
    _, of_area = _moments(self._areas, count)
    result = _by_name(mean) | {
      'standard_error': _by_name(error),
      'area_standard_error': _by_name(of_area),
      'num_queries': count,
    }
    if self._per_query.size:
      result['per_query'] = _by_name(self._per_query)
    return result


def _by_name(values):
  return dict(zip(METRICS, values, strict=True))


def _sums(values):
  """Sums values in [0, 1], and their squares, over the last axis in _UNITs.

  Up to 2^13 values of at most 2^40 units are exact in float64.
  """
  if values.dtype == bool:
    ones = np.count_nonzero(values, axis=-1) * int(1 / _UNIT)
    return np.stack([ones, ones])
  values = values.astype(np.float64)
  sums = [np.rint(x / _UNIT).sum(axis=-1) for x in (values, values**2)]
  return np.stack(sums).astype(np.int64)


def _moments(sums, count):
  """Returns the mean and its standard error; NaN from a single query."""
  mean, square = sums * _UNIT / count
  variance = np.maximum(square - mean**2, 0)
  error = np.sqrt(variance / (count - 1)) if count > 1 else mean * np.nan
  return mean, error
