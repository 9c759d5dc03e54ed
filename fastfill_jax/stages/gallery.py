"""A gallery in the space it is searched in, as memory-mapped shards."""

import pathlib
from collections.abc import Callable

import numpy as np

from fastfill_jax import parallel
from fastfill_jax.methods import method
from fastfill_jax.storage import arrays, splits


def write_aligned(
  maps: method.Maps, items: splits.Split, old: str, directory: pathlib.Path
) -> tuple[arrays.ShardedArray, arrays.ShardedArray | None]:
  """Aligns a gallery into shards; every process writes its share of them.

  What a service searches before any backfilling: `directory/aligned`, in the
  precision of the old embeddings, with `directory/log_variance` beside it.
  Shards that are there already are kept.

  Returns:
    Aligned embeddings [gallery, embedding], and log-variances [gallery] or
    [gallery, embedding]; None if the alignment has none.

  Raises:
    ValueError: If an aligned embedding is not finite.
  """
  stored, side = items[old], items.get('side')

  def function(rows):
    aligned, log_variance = maps.align(
      stored[rows], None if side is None else side[rows]
    )
    return {'aligned': aligned, 'log_variance': log_variance}

  _write(function, 'aligned', len(stored), stored.dtype, directory)
  log_variance = None
  if (directory / 'log_variance').exists():
    log_variance = arrays.ShardedArray(directory / 'log_variance')
  return arrays.ShardedArray(directory / 'aligned'), log_variance


def write_new(
  maps: method.Maps,
  new: arrays.ShardedArray,
  aligned: arrays.ShardedArray | None,
  fuse: float,
  directory: pathlib.Path,
) -> arrays.ShardedArray:
  """What new embeddings become in the space that is searched.

  Args:
    maps: The fitted alignment.
    new: New embeddings [row, embedding].
    aligned: What a backfilled item overwrites, of which a share may be kept;
      None for queries.
    fuse: That share: (1 - fuse) * query(new) + fuse * aligned.
    directory: Of the shards.

  Returns:
    [row, embedding]; `new` itself where nothing changes it.
  """
  store = maps.store if aligned is not None else None
  if maps.query is None and store is None and not fuse:
    return new
  query = maps.query or (lambda x: x.astype(np.float32))

  def function(rows):
    if store is not None:
      return {directory.name: store(new[rows], aligned[rows])}
    mapped = query(new[rows])
    if fuse:
      mapped = (1 - fuse) * mapped + fuse * aligned[rows].astype(np.float32)
    return {directory.name: mapped}

  _write(function, directory.name, len(new), new.dtype, directory.parent)
  return arrays.ShardedArray(directory)


def squared_error(
  aligned: arrays.ShardedArray, new: arrays.ShardedArray
) -> np.ndarray:
  """Squared distances of aligned to new embeddings, float32 [gallery]."""
  return np.concatenate(
    [
      np.sum((aligned[rows].astype(np.float32) - new[rows]) ** 2, axis=1)
      for rows in splits.row_blocks(0, len(aligned))
    ]
  )


def mean_log_variance(log_variance: arrays.ShardedArray) -> np.ndarray:
  """Over the coordinates, if there is one for each; float32 [gallery]."""
  return np.concatenate(
    [
      log_variance[rows].reshape(rows.stop - rows.start, -1).mean(axis=1)
      for rows in splits.row_blocks(0, len(log_variance))
    ]
  )


def _write(
  function: Callable[[slice], dict[str, np.ndarray | None]],
  main: str,
  rows: int,
  dtype: np.dtype,
  directory: pathlib.Path,
):
  """Writes this process's shards of what a function gives for all rows.

  The array `main` is rounded to `dtype`, and written last: its shard says that
  the others are there.
  """
  with parallel.together():
    for shard, chosen in arrays.missing_shards(directory / main, rows):
      parts: dict[str, list[np.ndarray]] = {}
      for block in splits.row_blocks(chosen.start, chosen.stop):
        for name, array in function(block).items():
          if array is not None:
            parts.setdefault(name, []).append(array)
      whole = {name: np.concatenate(array) for name, array in parts.items()}
      with np.errstate(over='ignore'):  # Reported below.
        whole[main] = whole[main].astype(dtype)
      if not np.isfinite(whole[main]).all():
        raise ValueError(
          f'The alignment gave embeddings that are not finite in {dtype}.'
        )
      for name in sorted(whole, key=lambda name: name == main):
        arrays.write_shard(directory / name, shard, whole[name])
  parallel.barrier(f'mapped into {directory}')
