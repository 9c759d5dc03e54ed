"""Batches as a pure function of the seed and the step.

Nothing here has state: batch `step` is computed from (seed, step) alone, so a
run resumes by naming the step it stopped at, and every process computes its
own rows of the same global batch. Grain runs the computation ahead in threads
or worker processes.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from fastfill_jax.data import sources, transforms

# Examples that one thread reads and augments in one go: small enough that a
# batch is shared by several threads, large enough to read records in bulk.
_CHUNK = 64
# Independent streams of chance under one seed.
_SHUFFLE, _TRAIN, _IN_ORDER = range(3)


def loader(
  source: sources.Source,
  indices: np.ndarray,
  transform: transforms.Transform,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_steps: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  num_workers: int = 0,
  prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields shuffled, augmented batches for training.

  Every epoch is a new permutation of `indices`; a batch may reach over its
  border, so that none is partial. Example number k of the run is augmented by
  the generator (seed, k).

  Args:
    source: the examples.
    indices: int [row], the rows to train on.
    transform: from `transforms.make_transform`.
    batch_size: of the global batch, over all processes.
    seed: of order and augmentation, at least 0.
    start_step: the first step to yield.
    num_steps: length of the whole run; steps start_step to num_steps - 1 are
      yielded. Endless by default.
    process_index: this process's number; it gets the rows from
      process_index * batch_size / process_count on.
    process_count: number of processes.
    num_threads: that read and augment; by default one per core.
    num_workers: processes that do so instead, each with `num_threads`; absl's
      flags must be parsed (`app.run`). Worth it where the transform holds
      Python's lock.
    prefetch: batches kept ready.

  Yields:
    'image' uint8 [batch, (view,) height, width, channel], 'label' int32
    [batch], and 'index' int32 [batch], the row in the source.

  Raises:
    ValueError: no indices, or rows, sizes, steps out of range.
  """
  batches = _Batches(
    source,
    _check_indices(source, indices),
    transform,
    batch_size=batch_size,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
    in_order=False,
  )
  end = num_steps if num_steps is not None else 2**40
  if not 0 <= start_step <= end:
    raise ValueError(f'start_step={start_step}: give 0 to num_steps={end}')
  return _ahead(batches, start_step, end, num_threads, num_workers, prefetch)


def batches_in_order(
  source: sources.Source,
  indices: np.ndarray,
  transform: transforms.Transform,
  *,
  batch_size: int,
  seed: int,
  view: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  num_workers: int = 0,
  prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields every row once, in order, for embedding.

  The augmentation of an example depends on (seed, view, row) alone: not on the
  batch size, the process or what else is embedded.

  Args:
    source: the examples.
    indices: int [row], the rows to embed.
    transform: from `transforms.make_transform`.
    batch_size: of the global batch, over all processes.
    seed: of the augmentation, at least 0.
    view: number of the augmented view.
    process_index: this process's number, as in `loader`.
    process_count: number of processes; all yield the same number of batches.
    num_threads: as in `loader`.
    num_workers: as in `loader`.
    prefetch: batches kept ready.

  Yields:
    What `loader` yields, and 'where' bool [batch]: False in the last batch's
    padding, which repeats the last row.

  Raises:
    ValueError: no indices, or rows, sizes out of range.
  """
  batches = _Batches(
    source,
    _check_indices(source, indices),
    transform,
    batch_size=batch_size,
    seed=seed,
    view=view,
    process_index=process_index,
    process_count=process_count,
    in_order=True,
  )
  end = -(-len(batches.indices) // batch_size)
  return _ahead(batches, 0, end, num_threads, num_workers, prefetch)


@dataclasses.dataclass(frozen=True)
class _Batches:
  """Computes this process's share of a batch, chunk by chunk."""

  source: sources.Source
  indices: np.ndarray
  transform: transforms.Transform
  _: dataclasses.KW_ONLY
  batch_size: int
  seed: int
  process_index: int
  process_count: int
  in_order: bool
  view: int = 0

  def __post_init__(self):
    if self.process_count < 1 or not (
      0 <= self.process_index < self.process_count
    ):
      raise ValueError(
        f'process_index={self.process_index} of process_count='
        f'{self.process_count}: give 0 to process_count - 1'
      )
    if self.batch_size < 1 or self.batch_size % self.process_count:
      raise ValueError(
        f'batch_size={self.batch_size}: give a positive multiple of the '
        f'{self.process_count} processes'
      )
    if self.seed < 0 or self.view < 0:
      raise ValueError(f'seed={self.seed}, view={self.view}: give 0 or more')

  @property
  def local_size(self) -> int:
    """Rows of a batch that this process computes."""
    return self.batch_size // self.process_count

  @property
  def chunks_per_batch(self) -> int:
    """Pieces a batch is computed in."""
    return -(-self.local_size // _CHUNK)

  def chunk(self, number: int) -> dict[str, np.ndarray]:
    """Computes one chunk; they are numbered through all batches."""
    step, part = divmod(number, self.chunks_per_batch)
    first = step * self.batch_size + self.process_index * self.local_size
    size = min(_CHUNK, self.local_size - part * _CHUNK)
    positions = first + part * _CHUNK + np.arange(size)
    if not self.in_order:
      rows = self._shuffled(positions)
      return self._load(rows, [(_TRAIN, 0, k) for k in positions])
    where = positions < len(self.indices)
    rows = self.indices[np.minimum(positions, len(self.indices) - 1)]
    streams = [(_IN_ORDER, self.view, row) for row in rows]
    return self._load(rows, streams) | {'where': where}

  def _shuffled(self, positions: np.ndarray) -> np.ndarray:
    size = len(self.indices)
    return np.array(
      [
        self.indices[_permutation(self.seed, k // size, size)[k % size]]
        for k in positions.tolist()
      ]
    )

  def _load(
    self, rows: np.ndarray, streams: list[tuple[int, int, int]]
  ) -> dict[str, np.ndarray]:
    images, labels = [], []
    examples = self.source.__getitems__(rows)
    for row, example, stream in zip(rows, examples, streams, strict=True):
      try:
        image = transforms.decode(example['image'], self.source.channels)
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


def _check_indices(source: sources.Source, indices: np.ndarray) -> np.ndarray:
  indices = np.asarray(indices)
  if indices.ndim != 1 or not indices.size:
    raise ValueError(
      f'indices have shape {indices.shape}: give at least one row number'
    )
  if not np.issubdtype(indices.dtype, np.integer):
    raise ValueError(f'indices are {indices.dtype}: give whole numbers')
  if indices.min() < 0 or indices.max() >= len(source):
    raise ValueError(
      f'indices reach from {indices.min()} to {indices.max()}: the source has '
      f'rows 0 to {len(source) - 1}'
    )
  return indices


@dataclasses.dataclass(frozen=True)
class _Chunks:
  """The run's chunks as a sequence, which is what Grain reads."""

  batches: _Batches
  size: int

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    return self.batches.chunk(int(number))


def _ahead(
  batches: _Batches,
  start: int,
  end: int,
  num_threads: int | None,
  num_workers: int,
  prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Checks the rest of the arguments and starts computing."""
  num_threads = os.cpu_count() if num_threads is None else num_threads
  if num_threads < 0 or num_workers < 0 or prefetch < 1:
    raise ValueError(
      f'num_threads={num_threads}, num_workers={num_workers}, prefetch='
      f'{prefetch}: give 0 or more threads and workers, 1 or more batches'
    )
  import grain

  parts = batches.chunks_per_batch
  chunks = grain.MapDataset.source(_Chunks(batches, end * parts))
  ready = max(num_threads, prefetch * parts) if num_threads else 0
  dataset = chunks[start * parts :].to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ready)
  )
  if num_workers:
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=prefetch * parts
      )
    )
  return _iterate(dataset.batch(parts, batch_fn=_join))


def _join(chunks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  if len(chunks) == 1:
    return dict(chunks[0])
  return {
    key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]
  }


def _iterate(dataset) -> Iterator[dict[str, np.ndarray]]:
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    iterator.close()  # Frees the threads when a run stops early.
