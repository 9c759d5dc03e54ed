"""Pairs of old and new embeddings, as alignments are fitted to them."""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from fastfill_jax import embeddings, parallel

_BLOCK_ROWS = 16_384


class Pairs:
  """The training split's embeddings: views of [example, ...] arrays."""

  def __init__(self, directory: pathlib.Path, names: Sequence[str]):
    folders = directory.glob('train/view*')
    folders = sorted(folders, key=lambda path: int(path.name[len('view') :]))
    self.views = [
      {name: embeddings.ShardedArray(path / name) for name in names}
      for path in folders
    ]
    self.size = len(self.views[0]['old'])

  def batches(
    self, batch_size: int, seed: int, start: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches; each is a function of the seed and its step.

    An epoch is a permutation of one view less the remainder; the views take
    turns.
    """
    per_epoch = self.size // batch_size
    local = batch_size // parallel.process_count()
    first = parallel.process_index() * local
    step = start
    while True:
      epoch = step // per_epoch
      view = self.views[epoch % len(self.views)]
      permutation = np.random.default_rng((seed, epoch)).permutation(self.size)
      for i in range(step % per_epoch, per_epoch):
        begin = i * batch_size + first
        rows = permutation[begin : begin + local]
        yield {name: array[rows] for name, array in view.items()}
      step = (epoch + 1) * per_epoch

  def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All (old, new) rows of all views, in blocks, as float32."""
    for view in self.views:
      for start in range(0, self.size, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        yield tuple(
          view[name][rows].astype(np.float32) for name in ('old', 'new')
        )
