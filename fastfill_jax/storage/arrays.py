"""Embeddings on disk: memory-mapped shards that read like one array.

An array [row, ...] is a folder of .npy files of `shard_rows` rows each. The
files do not depend on how many processes wrote them, a shard that is there is
complete (it is renamed into place), and a reader touches only the rows it
asks for.
"""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from fastfill_jax import parallel

_SHARD_ROWS = 65_536


def _shard_path(directory, shard: int) -> pathlib.Path:
  return pathlib.Path(directory) / f'{shard:05d}.npy'


def write_shard(directory, shard: int, rows: np.ndarray):
  """Writes one shard; it appears under its name only when complete."""
  path = _shard_path(directory, shard)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  with open(partial, 'wb') as file:
    np.save(file, rows)
  os.replace(partial, path)


def link_shard(directory, shard: int, target: pathlib.Path):
  """Makes a file of rows that lies elsewhere a shard of this array."""
  path = _shard_path(directory, shard)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.unlink(missing_ok=True)
  path.symlink_to(target)


def has_shard(directory, shard: int) -> bool:
  return _shard_path(directory, shard).exists()


def missing_shards(directory, rows: int) -> Iterator[tuple[int, slice]]:
  """The shards of this process that are not there, and their rows."""
  starts = range(0, rows, _SHARD_ROWS)
  mine = slice(parallel.process_index(), None, parallel.process_count())
  for shard, start in list(enumerate(starts))[mine]:
    if not has_shard(directory, shard):
      yield shard, slice(start, min(start + _SHARD_ROWS, rows))


def write(directory, array: np.ndarray, shard_rows: int = _SHARD_ROWS):
  """Writes an array [row, ...] that is in memory."""
  for shard, start in enumerate(range(0, len(array), shard_rows)):
    write_shard(directory, shard, array[start : start + shard_rows])


class ShardedArray:
  """A read-only array [row, ...] over the shards of a folder.

  Slices and integer arrays index the rows and return NumPy arrays.

  Raises:
    ValueError: If there is no shard, one is missing, or they do not fit.
  """

  def __init__(self, directory):
    paths = sorted(pathlib.Path(directory).glob('*.npy'))
    if not paths:
      raise ValueError(f'No embeddings in {directory}.')
    for shard, path in enumerate(paths):
      if path != _shard_path(directory, shard):
        raise ValueError(f'Shard {shard} is missing in {directory}.')
    self._shards = [np.load(path, mmap_mode='r') for path in paths]
    first = self._shards[0]
    for path, shard in zip(paths, self._shards, strict=True):
      if shard.shape[1:] != first.shape[1:] or shard.dtype != first.dtype:
        raise ValueError(
          f'{path} holds {shard.dtype} rows of {shard.shape[1:]}, the first '
          f'shard {first.dtype} rows of {first.shape[1:]}.'
        )
    self._ends = np.cumsum([len(shard) for shard in self._shards])
    self.shape = (int(self._ends[-1]), *first.shape[1:])
    self.dtype = first.dtype
    self.ndim = len(self.shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows) -> np.ndarray:
    if isinstance(rows, slice):
      rows = range(*rows.indices(len(self)))
      if rows.step == 1:
        return self._slice(rows.start, rows.stop)
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in 'iu':
      raise TypeError('Rows are a slice or a 1-d array of integers.')
    if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
      raise IndexError(f'Rows must lie in [0, {len(self)}).')
    out = np.empty((len(rows), *self.shape[1:]), self.dtype)
    owner = np.searchsorted(self._ends, rows, side='right')
    for shard in np.unique(owner):
      mask = owner == shard
      start = self._ends[shard] - len(self._shards[shard])
      out[mask] = self._shards[shard][rows[mask] - start]
    return out

  def _slice(self, start: int, stop: int) -> np.ndarray:
    begins = self._ends - [len(shard) for shard in self._shards]
    pieces = [
      shard[max(start - begin, 0) : max(stop - begin, 0)]
      for begin, shard in zip(begins, self._shards, strict=True)
      if begin < stop and start < begin + len(shard)
    ]
    return np.concatenate(pieces or [self._shards[0][:0]])

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    del copy
    array = self[:]
    return array if dtype is None else array.astype(dtype)
