"""A plan on disk: the aligned gallery, and what to backfill first.

plan.json      count, old_dim, new_dim, distance, policy, digests
id/            [item] ids, the gallery's own order
aligned/       [item, new_dim] old embeddings in the new space
order/         [item] rows of the above, first to be backfilled first
log_variance/  perhaps
forecast.csv   perhaps
"""

import hashlib
import json
import pathlib

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import forecasts
from fastfill_jax.stores import shards

_KEYS = (
  'count',
  'old_dim',
  'new_dim',
  'distance',
  'policy',
  'alignment',
  'encoder',
)
_FORMAT = 1


class Plan:
  """A plan's folder; the aligned embeddings stay on disk.

  Attributes:
    count, old_dim, new_dim, distance, policy: As in plan.json.
    aligned_space: The tag of an aligned embedding.
    new_space: The tag of a new one.
    digest: Of all that says which items are written in which order.
    ids: [item] int64 or strings.
    order: int64 [item].
    aligned: A sharded array [item, new_dim].
    forecast: What each share buys, or None.

  Raises:
    ValueError: If anything is missing or does not fit the rest.
  """

  def __init__(self, directory):
    self.directory = pathlib.Path(directory)
    try:
      text = (self.directory / 'plan.json').read_text()
    except FileNotFoundError:
      raise ValueError(f'No plan in {directory}: no plan.json.') from None
    settings = json.loads(text)
    missing = [key for key in _KEYS if key not in settings]
    if missing or settings.get('format') != _FORMAT:
      raise ValueError(
        f'{directory}/plan.json must have format {_FORMAT} and '
        f'{", ".join(_KEYS)}; it lacks {", ".join(missing) or "the format"}.'
      )
    for key in _KEYS[:5]:
      setattr(self, key, settings[key])
    stores.base.choose_distance(self.distance)
    self.aligned_space = f'aligned:{settings["alignment"]}'
    self.new_space = f'new:{settings["encoder"]}'
    self.ids = stores.base.check_ids(self._array('id', (self.count,))[:])
    self.order = self._array('order', (self.count,))[:].astype(np.int64)
    self.aligned = self._array('aligned', (self.count, self.new_dim))
    if not np.array_equal(np.sort(self.order), np.arange(self.count)):
      raise ValueError(f'{directory}/order is no permutation of the rows.')
    self._sorter = np.argsort(self.ids, kind='stable')
    digest = hashlib.sha256(text.encode())
    digest.update(self.order.tobytes() + self.ids.tobytes())
    self.digest = digest.hexdigest()[:16]
    csv = self.directory / 'forecast.csv'
    self.forecast = (
      forecasts.Forecast(csv, self.policy) if csv.exists() else None
    )

  def _array(self, name, shape):
    array = shards.ShardedArray(self.directory / name)
    if array.shape != shape:
      raise ValueError(
        f'{self.directory / name} is {array.shape}, plan.json says {shape}.'
      )
    return array

  def rows(self, ids: np.ndarray) -> np.ndarray:
    """The plan's rows of ids [item], -1 for items that it does not know."""
    if not len(ids) or ids.dtype.kind != self.ids.dtype.kind:
      return np.full(len(ids), -1, np.int64)
    place = np.searchsorted(self.ids, ids, sorter=self._sorter)
    rows = self._sorter[np.minimum(place, self.count - 1)]
    return np.where(self.ids[rows] == ids, rows, -1)
