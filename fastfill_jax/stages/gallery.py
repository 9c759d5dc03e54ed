"""A gallery in the space it is searched in, and what policies read of it.

Arrays lie in memory-mapped shards, or are computed as their rows are read.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fastfill_jax import parallel
from fastfill_jax.methods import classifiers, method
from fastfill_jax.storage import arrays, artifact, splits


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
  path = directory / 'log_variance'
  log_variance = arrays.ShardedArray(path) if path.exists() else None
  return arrays.ShardedArray(directory / 'aligned'), log_variance


def write_new(
  maps: method.Maps,
  new: arrays.ShardedArray,
  aligned: arrays.ShardedArray | None,
  fuse: float,
  directory: pathlib.Path,
) -> arrays.ShardedArray:
  """What new embeddings become in the space that is searched.

  Of the aligned embeddings that backfilled items overwrite a share may be kept,
  (1 - fuse) * query(new) + fuse * aligned; queries overwrite None.

  Returns:
    [row, embedding], shards in the directory; `new` where nothing changes it.
  """
  changed = maps.store if aligned is not None else None
  if maps.query is None and changed is None and not fuse:
    return new

  def function(rows):
    before = None if aligned is None else aligned[rows]
    return {directory.name: become(maps, new[rows], before, fuse)}

  _write(function, directory.name, len(new), new.dtype, directory.parent)
  return arrays.ShardedArray(directory)


def become(
  maps: method.Maps, new: np.ndarray, aligned: np.ndarray | None, fuse: float
) -> np.ndarray:
  """`write_new` of rows, float32 [row, embedding]."""
  if maps.store is not None and aligned is not None:
    return maps.store(new, aligned)
  mapped = maps.query(new) if maps.query else new.astype(np.float32)
  if fuse:
    mapped = (1 - fuse) * mapped + fuse * aligned.astype(np.float32)
  return mapped


def squared_error(
  aligned: arrays.ShardedArray, new: arrays.ShardedArray
) -> np.ndarray:
  """Squared distances of aligned to new embeddings, float32 [gallery]."""
  return _by_block(
    lambda x, y: np.sum((x.astype(np.float32) - y) ** 2, axis=1), aligned, new
  )


def mean_log_variance(log_variance: arrays.ShardedArray) -> np.ndarray:
  """Over the coordinates, if there is one for each; float32 [gallery]."""
  return _by_block(lambda x: x.reshape(len(x), -1).mean(axis=1), log_variance)


def _by_block(function, *held):
  blocks = splits.row_blocks(0, len(held[0]))
  return np.concatenate([function(*(x[rows] for x in held)) for rows in blocks])


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


def readable(
  embedded: dict[str, artifact.Artifact],
  new: str,
  aligned: arrays.ShardedArray | np.ndarray,
  log_variance: arrays.ShardedArray | np.ndarray | None,
  seed: int,
  width: int | None,
  train_rows: np.ndarray | None = None,
) -> dict[str, Any]:
  """What policies may read before any backfilling; None: it is not there.

  Of aligned embeddings, the first `width` coordinates: `Maps.new_dim`. Where
  that is None no new classifier or embedding is compared with them. Of the
  training items all, or those of `train_rows`.
  """
  held = {'key': jax.random.key(seed), 'log_variance': log_variance}
  if width is None:
    return held | {'aligned': aligned}
  aligned = leading(aligned, width)
  train = splits.Pairs(embedded)
  view = train.arrays([x for x in (new, 'label') if x in train])[0]
  if train_rows is not None:
    view = {
      name: ByRow(train_rows, x.__getitem__, x.dtype, *x.shape[1:])
      for name, x in view.items()
    }
  held |= {
    'aligned': aligned,
    'train_new': view[new],
    'train_labels': view.get('label'),
  }
  classifier = classifiers.load(embedded[new])
  if classifier is None:
    return held
  kernel = classifier.kernel

  def logits(rows):
    return classifier.logits(rows.astype(np.float32))

  read = ByRow(aligned, logits, kernel.dtype, kernel.shape[1])
  return held | {'logits': read, 'class_weights': kernel}


def leading(array: Any, width: int) -> 'ByRow':
  """The leading coordinates of an array [row, coordinate].

  A map may add coordinates of its own behind the embedding's.
  """
  width = min(width, array.shape[1])
  return ByRow(array, lambda rows: rows[:, :width], array.dtype, width)


class ByRow:
  """A function of an array's rows, [row, *width], computed as it is read."""

  def __init__(self, array: Any, function: Callable, dtype: Any, *width: int):
    self.shape = len(array), *width
    self.dtype = dtype
    self.ndim = len(self.shape)
    self._array = array
    self._function = function

  def __len__(self):
    return len(self._array)

  def __getitem__(self, rows):
    return self._function(self._array[rows])
