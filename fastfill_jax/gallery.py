"""The splits that are evaluated, and the gallery in the new space.

Everything is memory-mapped shards: what is read of a gallery at a time does
not grow with it.
"""

import pathlib

import numpy as np

from fastfill_jax import align, artifact, embeddings, parallel

_SHARD_ROWS = 65_536
_BLOCK_ROWS = 16_384  # What is aligned or compared at a time.


class Split:
  """One split's embeddings and columns, memory-mapped."""

  def __init__(self, directory: pathlib.Path):
    self.arrays = {
      path.name: embeddings.ShardedArray(path)
      for path in directory.iterdir()
      if path.is_dir()
    }
    self.id = self.arrays['id'][:]
    self.label, self.minority = (
      self.arrays[name][:] if name in self.arrays else None
      for name in ('label', 'minority')
    )

  def __len__(self):
    return len(self.id)


def open_splits(embedded: artifact.Artifact) -> tuple[Split, Split]:
  """Query and gallery; the same object if there is one split only."""
  gallery = Split(embedded.directory / 'gallery')
  separate = embedded.directory / 'query'
  return (Split(separate) if separate.exists() else gallery), gallery


def write_aligned(
  apply: align.Apply, gallery: Split, directory: pathlib.Path
) -> tuple[embeddings.ShardedArray, np.ndarray | None]:
  """Aligns a gallery into shards; every process writes its share of them.

  What a service searches before any backfilling: `directory/aligned`, in the
  precision of the old embeddings, with `directory/log_variance` beside it.

  Args:
    apply: The alignment.
    gallery: With old embeddings and perhaps side-information.
    directory: Shards that are there already are kept.

  Returns:
    Aligned embeddings [gallery, embedding], and log-variances [gallery] or
    [gallery, embedding]; None if the alignment has none.

  Raises:
    ValueError: If an aligned embedding is not finite.
  """
  old = gallery.arrays['old']
  starts = range(0, len(gallery), _SHARD_ROWS)
  mine = slice(parallel.process_index(), None, parallel.process_count())
  error = None
  for shard, start in list(enumerate(starts))[mine]:
    if embeddings.has_shard(directory / 'aligned', shard):
      continue
    stop = min(start + _SHARD_ROWS, len(gallery))
    aligned, log_variance = _align_rows(apply, gallery, start, stop)
    with np.errstate(over='ignore'):  # Reported below.
      aligned = aligned.astype(old.dtype)
    if not np.isfinite(aligned).all():
      error = ValueError(
        f'The alignment gave embeddings that are not finite in {old.dtype}.'
      )
      break
    if log_variance is not None:
      embeddings.write_shard(directory / 'log_variance', shard, log_variance)
    # Last: its shard says that the other is there.
    embeddings.write_shard(directory / 'aligned', shard, aligned)
  parallel.raise_together(error)
  parallel.barrier(f'aligned {directory}')
  log_variance = None
  if (directory / 'log_variance').exists():
    log_variance = embeddings.ShardedArray(directory / 'log_variance')
  return open_aligned(directory), log_variance


def open_aligned(directory: pathlib.Path) -> embeddings.ShardedArray:
  """The aligned gallery that `write_aligned` wrote."""
  return embeddings.ShardedArray(directory / 'aligned')


def squared_error(
  aligned: embeddings.ShardedArray, new: embeddings.ShardedArray
) -> np.ndarray:
  """Squared distances of aligned to new embeddings, float32 [gallery]."""
  return np.concatenate(
    [
      np.sum((aligned[rows].astype(np.float32) - new[rows]) ** 2, axis=1)
      for rows in _blocks(0, len(aligned))
    ]
  )


def mean_log_variance(log_variance: embeddings.ShardedArray) -> np.ndarray:
  """Over the coordinates, if there is one for each; float32 [gallery]."""
  return np.concatenate(
    [
      log_variance[rows].reshape(rows.stop - rows.start, -1).mean(axis=1)
      for rows in _blocks(0, len(log_variance))
    ]
  )


def _align_rows(apply, gallery, start, stop):
  old, side = gallery.arrays['old'], gallery.arrays.get('side')
  aligned, log_variance = zip(
    *(
      apply(old[rows], None if side is None else side[rows])
      for rows in _blocks(start, stop)
    ),
    strict=True,
  )
  if log_variance[0] is None:
    return np.concatenate(aligned), None
  return np.concatenate(aligned), np.concatenate(log_variance)


def _blocks(start, stop):
  for first in range(start, stop, _BLOCK_ROWS):
    yield slice(first, min(first + _BLOCK_ROWS, stop))
