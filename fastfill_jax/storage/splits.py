"""The splits of a data set as embeddings and columns, memory-mapped.

Arrays of one split may lie in several results, each encoder's in its own:
`ROOT/SPLIT/NAME/` is an array of shards. What is read of a gallery at a time
does not grow with it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fastfill_jax import parallel
from fastfill_jax.storage import arrays, artifact

_BLOCK_ROWS = 16_384  # What is mapped or compared at a time.
# {array: results it may lie in}, such as {'old': embed/old/seed0, ...}
Embedded = Mapping[str, artifact.Artifact]


class Split:
  """One split: `split['old']` is an array [row, embedding], opened on use."""

  def __init__(self, embedded: Embedded, name: str):
    self._folders = {}
    for root in embedded.values():
      folder = root.directory / name
      if folder.is_dir():
        self._folders |= {x.name: x for x in folder.iterdir() if x.is_dir()}
    self._open: dict[str, arrays.ShardedArray] = {}

  def __contains__(self, name: str) -> bool:
    return name in self._folders

  def __getitem__(self, name: str) -> arrays.ShardedArray:
    if name not in self._open:
      if name not in self:
        raise ValueError(f'No {name!r}, only {sorted(self._folders)}.')
      self._open[name] = arrays.ShardedArray(self._folders[name])
    return self._open[name]

  def __len__(self) -> int:
    return len(self['id'])

  def get(self, name: str) -> arrays.ShardedArray | None:
    """The array of this name, or None."""
    if name in self:
      return self[name]
    return None

  def column(self, name: str) -> np.ndarray | None:
    """A whole column in memory, such as 'label' [row], or None."""
    return self[name][:] if name in self else None


def evaluated(embedded: Embedded) -> tuple[Split, Split]:
  """Query and gallery; the same object if there is one split only."""
  gallery, query = Split(embedded, 'gallery'), Split(embedded, 'query')
  return (query if 'id' in query else gallery), gallery


class Pairs:
  """The training split's embeddings, in one or several augmented views."""

  def __init__(self, embedded: Embedded):
    roots = {root.directory for root in embedded.values()}
    views = {x.name for root in roots for x in root.glob('train/view*')}
    self.views = [Split(embedded, f'train/view{i}') for i in range(len(views))]
    self._columns = Split(embedded, 'train')

  def arrays(
    self, names: Sequence[str]
  ) -> list[dict[str, arrays.ShardedArray]]:
    """The arrays of these names of every view; columns are in all of them."""
    return [
      {name: (view if name in view else self._columns)[name] for name in names}
      for view in self.views
    ]

  def __contains__(self, name: str) -> bool:
    return name in self.views[0] or name in self._columns


def batches(
  views: Sequence[Mapping[str, arrays.ShardedArray]],
  batch_size: int,
  seed: int,
  start: int,
) -> Iterator[dict[str, np.ndarray]]:
  """This process's batches; each is a function of the seed and its step.

  Endless, from the step `start` on; batch_size is over all processes. An epoch
  is a permutation of one view less the remainder; the views take turns.
  """
  size = len(next(iter(views[0].values())))
  per_epoch = size // batch_size
  local = batch_size // parallel.process_count()
  first = parallel.process_index() * local
  for epoch in itertools.count(start // per_epoch):
    view = views[epoch % len(views)]
    permutation = np.random.default_rng((seed, epoch)).permutation(size)
    for step in range(max(start - epoch * per_epoch, 0), per_epoch):
      begin = step * batch_size + first
      rows = permutation[begin : begin + local]
      yield {name: array[rows] for name, array in view.items()}


def blocks(
  views: Sequence[Mapping[str, arrays.ShardedArray]], *names: str
) -> Iterator[tuple[np.ndarray, ...]]:
  """All rows of the named arrays of all views, in blocks, as float32."""
  for view in views:
    for rows in row_blocks(0, len(view[names[0]])):
      yield tuple(view[name][rows].astype(np.float32) for name in names)


def row_blocks(start: int, stop: int) -> Iterator[slice]:
  """Slices that cover [start, stop)."""
  for first in range(start, stop, _BLOCK_ROWS):
    yield slice(first, min(first + _BLOCK_ROWS, stop))
