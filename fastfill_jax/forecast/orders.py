"""Orders of a gallery: a score for every item, the highest first.

  random  a hash of the item's id: new items fall in between
  sigma   the log-variance that the alignment predicts
  norm    how short the aligned embedding is. Where new embeddings are of unit
          length and an alignment is their conditional mean, its squared error
          is 1 - |aligned|^2: a regression says itself where it is unsure.

A score depends on its item alone, so that a gallery may be scored shard by
shard and grow.
"""

import pathlib
import shutil

import numpy as np

from fastfill_jax.forecast import holdings
from fastfill_jax.storage import arrays as sharded

ORDERS = ('random', 'sigma', 'norm')
_SHARD_ROWS = 65_536
_REGRESSIONS = ('ridge', 'l2', 'l2+u')


def available(method: str, has_uncertainty: bool) -> tuple[str, ...]:
  """The orders that an alignment can give."""
  orders = ('random',)
  orders += ('sigma',) if has_uncertainty else ()
  return orders + (('norm',) if method in _REGRESSIONS else ())


def score(
  order: str,
  ids: np.ndarray,
  aligned: np.ndarray,
  log_variance: np.ndarray | None,
) -> np.ndarray:
  """Scores items, float32 [item]; the highest is backfilled first.

  Raises:
    ValueError: If the order is unknown or reads what is not there.
  """
  if order == 'random':
    return (holdings.hash_ids(ids) / 2.0**64).astype(np.float32)
  if order == 'norm':
    return -np.linalg.norm(aligned, axis=1).astype(np.float32)
  if order != 'sigma' or log_variance is None:
    raise ValueError(
      f'order={order!r} with log_variance={log_variance}; one of '
      f'{", ".join(ORDERS)}, and sigma needs an alignment with uncertainty.'
    )
  return np.asarray(log_variance, np.float32)


def write(
  scores: sharded.ShardedArray,
  directory: pathlib.Path,
  memory_rows: int = 2**24,
):
  """Sorts a gallery by its scores into shards of rows, highest first.

  Equal scores go by row. Items are dealt into buckets by quantiles of the
  scores, and one bucket after another is sorted in memory: what is held does
  not grow with the gallery.

  Args:
    scores: float32 [item].
    directory: Of the shards.
    memory_rows: Items sorted at a time, on average.
  """
  edges = _edges(scores, -(-len(scores) // memory_rows))
  buckets = directory.with_name(directory.name + '.buckets')
  shutil.rmtree(buckets, ignore_errors=True)
  buckets.mkdir(parents=True)
  kind = np.dtype([('score', np.float32), ('row', np.int64)])
  for start in range(0, len(scores), _SHARD_ROWS):
    part = scores[start : start + _SHARD_ROWS]
    held = np.empty(len(part), kind)
    held['score'], held['row'] = part, start + np.arange(len(part))
    owner = np.searchsorted(edges, -part, side='right')
    for bucket in np.unique(owner):
      with (buckets / str(bucket)).open('ab') as file:
        held[owner == bucket].tofile(file)
  rest, shard = np.empty(0, np.int64), 0
  for bucket in range(len(edges) + 1):
    if not (buckets / str(bucket)).exists():
      continue
    held = np.fromfile(buckets / str(bucket), kind)
    order = np.argsort(-held['score'], kind='stable')
    rest = np.concatenate([rest, held['row'][order]])
    while len(rest) >= _SHARD_ROWS:
      sharded.write_shard(directory, shard, rest[:_SHARD_ROWS])
      rest, shard = rest[_SHARD_ROWS:], shard + 1
  if len(rest):
    sharded.write_shard(directory, shard, rest)
  shutil.rmtree(buckets)


def _edges(scores, buckets):
  """Increasing bounds of -score that deal out about as many to each."""
  rng = np.random.default_rng(0)
  some = np.sort(rng.integers(0, len(scores), min(len(scores), 100_000)))
  quantiles = np.arange(1, buckets) / buckets
  return np.unique(np.quantile(-scores[some], quantiles)).astype(np.float32)
