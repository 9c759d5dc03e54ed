"""Batches, computed ahead by Grain in threads or worker processes.

What is in batch `step` follows from the seed and the step alone: a run resumes
by naming the step it stopped at, and every process computes its own rows of the
same global batch.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from fastfill_jax.data import pixels, sources, transforms

# Examples that one thread reads and augments in one go: small enough that a
# batch is shared by several threads, large enough to read records in bulk.
_CHUNK = 64
_AHEAD = 2  # Batches that are kept ready.
_ENDLESS = 2**40  # Steps.
# Independent streams of chance under one seed.
_SHUFFLE, _TRAIN, _IN_ORDER = range(3)


def loader(
  source: sources.Source,
  indices: np.ndarray,
  transform: transforms.Transform,
  *,
  start_step: int = 0,
  num_threads: int | None = None,
  num_workers: int = 0,
  **share: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields shuffled, augmented batches for training, without end.

  Every epoch is a new permutation of `indices`; a batch may reach over its
  border, so that none is partial. Example number k of the run is augmented by
  the generator (seed, k).

  Args:
    source: the examples.
    indices: int [row], the rows to train on.
    transform: from `transforms.make_transform`.
    start_step: the first step to yield.
    num_threads: that read and augment; by default one per core, or one in
      each worker.
    num_workers: processes that do so instead, for transforms that hold Python's
      lock (`simclr`); absl's flags must be parsed (`app.run`).
    **share: batch_size, over all processes; seed, of order and augmentation;
      process_index and process_count, by default of a single process.

  Yields:
    'image' uint8 [batch, (view,) height, width, channel], 'label' int32
    [batch], and 'index' int32 [batch], the row in the source.

  Raises:
    ValueError: no indices, or a batch that does not divide over processes.
  """
  run = _Batches(source, np.asarray(indices), transform, **share)
  return _ahead(run, start_step, num_threads, num_workers)


def batches_in_order(
  source: sources.Source,
  indices: np.ndarray,
  transform: transforms.Transform,
  *,
  view: int = 0,
  num_threads: int | None = None,
  num_workers: int = 0,
  **share: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields every row once, in order; the other arguments are `loader`'s.

  The augmentation of an example depends on (seed, view, row) alone: not on the
  batch size, the process or what else is embedded. All processes yield the same
  number of batches.

  Yields:
    What `loader` yields, and 'where' bool [batch]: False in the last batch's
    padding, which repeats the last row.
  """
  run = _Batches(source, np.asarray(indices), transform, view=view, **share)
  return _ahead(run, 0, num_threads, num_workers)


@dataclasses.dataclass(frozen=True)
class _Batches:
  """One process's share of every batch, computed chunk by chunk.

  Chunks are numbered through all batches, `chunks_per_batch` to each. With a
  `view` they hold every row once, in order.
  """

  source: sources.Source
  indices: np.ndarray
  transform: transforms.Transform
  batch_size: int
  seed: int
  process_index: int = 0
  process_count: int = 1
  view: int | None = None

  def __post_init__(self):
    if not len(self.indices):
      raise ValueError('no indices: give at least one row number')
    if self.batch_size < 1 or self.batch_size % self.process_count:
      raise ValueError(
        f'batch_size={self.batch_size}: give a positive multiple of the '
        f'{self.process_count} processes'
      )

  @property
  def chunks_per_batch(self) -> int:
    return -(-self.batch_size // self.process_count // _CHUNK)

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    step, part = divmod(int(number), self.chunks_per_batch)
    start, size = part * _CHUNK, self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * size
    positions = first + np.arange(start, min(start + _CHUNK, size))
    count, view = len(self.indices), self.view
    if view is None:
      orders = [_permutation(self.seed, k // count, count) for k in positions]
      picked = [o[k % count] for o, k in zip(orders, positions, strict=True)]
      streams = [(_TRAIN, 0, k) for k in positions]
      return self._load(self.indices[picked], streams)
    # The last batch is padded with the last row.
    rows = self.indices[np.minimum(positions, count - 1)]
    streams = [(_IN_ORDER, view, row) for row in rows]
    return self._load(rows, streams) | {'where': positions < count}

  def __len__(self) -> int:
    if self.view is None:
      return _ENDLESS * self.chunks_per_batch
    return -(-len(self.indices) // self.batch_size) * self.chunks_per_batch

  def _load(self, rows, streams):
    """The examples of some rows, each augmented by its own generator."""
    images, labels = [], []
    examples = self.source.__getitems__(rows)
    for row, example, stream in zip(rows, examples, streams, strict=True):
      try:
        image = pixels.decode(example['image'], self.source.channels)
      except ValueError as error:
        raise ValueError(f'row {row}: {error}') from error
      images.append(self.transform(_rng(self.seed, *stream), image))
      labels.append(example['label'])
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
      raise ValueError(
        f'images of shapes {sorted(shapes)[:3]} in one batch: choose a '
        'transform with a fixed size'
      )
    return {
      'image': np.stack(images),
      'label': np.array(labels, np.int32),
      'index': rows.astype(np.int32),
    }


def _rng(seed: int, stream: int, high: int, low: int) -> np.random.Generator:
  # A counter-based generator: neighbours are independent, setting up is cheap.
  return np.random.Generator(
    np.random.Philox(key=(seed, stream), counter=(0, 0, high, low))
  )


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  return _rng(seed, _SHUFFLE, 0, epoch).permutation(size)


def _ahead(run, start_step, num_threads, num_workers):
  """Starts computing."""
  if num_threads is None:
    num_threads = 1 if num_workers else os.cpu_count()
  if num_workers < 0:
    raise ValueError(f'num_workers={num_workers}: give 0 or more')
  import grain

  parts = run.chunks_per_batch
  ready = max(num_threads, _AHEAD * parts) if num_threads else 0
  chunks = grain.MapDataset.source(run)[start_step * parts :]
  dataset = chunks.to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ready)
  )
  if num_workers:
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=_AHEAD * parts
      )
    )
  return _iterate(dataset.batch(parts, batch_fn=_join))


def _join(chunks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {
    key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]
  }


def _iterate(dataset) -> Iterator[dict[str, np.ndarray]]:
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    iterator.close()  # Frees the threads when a run stops early.
