"""What is in batch `step`, from the seed and the step alone.

Nothing here has state: a run resumes by naming the step it stopped at, and
every process computes its own rows of the same global batch.
"""

import abc
import dataclasses
import functools

import numpy as np

from fastfill_jax.data import pixels, sources, transforms

# Examples that one thread reads and augments in one go: small enough that a
# batch is shared by several threads, large enough to read records in bulk.
_CHUNK = 64
# Independent streams of chance under one seed.
_SHUFFLE, _TRAIN, _IN_ORDER = range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(abc.ABC):
  """One process's share of every batch, computed chunk by chunk.

  Chunks are numbered through all batches, `chunks_per_batch` to each.
  """

  source: sources.Source
  indices: np.ndarray
  transform: transforms.Transform
  batch_size: int
  seed: int
  process_index: int
  process_count: int

  def __post_init__(self):
    _check_indices(self.indices, len(self.source))
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f'process_index={self.process_index}, process_count='
        f'{self.process_count}: give 0 to process_count - 1'
      )
    if self.batch_size < 1 or self.batch_size % self.process_count:
      raise ValueError(
        f'batch_size={self.batch_size}: give a positive multiple of the '
        f'{self.process_count} processes'
      )
    if self.seed < 0:
      raise ValueError(f'seed={self.seed}: give 0 or more')

  @property
  def chunks_per_batch(self) -> int:
    """Pieces a batch is computed in."""
    return -(-self._local_size // _CHUNK)

  @property
  def _local_size(self) -> int:
    return self.batch_size // self.process_count

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    step, part = divmod(int(number), self.chunks_per_batch)
    start, size = part * _CHUNK, self._local_size
    first = step * self.batch_size + self.process_index * size
    return self._chunk(first + np.arange(start, min(start + _CHUNK, size)))

  @abc.abstractmethod
  def _chunk(self, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the examples at these positions of the whole run."""

  def _load(
    self, rows: np.ndarray, streams: list[tuple[int, int, int]]
  ) -> dict[str, np.ndarray]:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffled(Batches):
  """Endless batches, a new permutation of the rows in every epoch."""

  num_steps: int

  def __len__(self) -> int:
    return self.num_steps * self.chunks_per_batch

  def _chunk(self, positions: np.ndarray) -> dict[str, np.ndarray]:
    size = len(self.indices)
    orders = [_permutation(self.seed, k // size, size) for k in positions]
    picked = [o[k % size] for o, k in zip(orders, positions, strict=True)]
    streams = [(_TRAIN, 0, k) for k in positions]
    return self._load(self.indices[picked], streams)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InOrder(Batches):
  """Every row once; the last batch is padded with its last row."""

  view: int

  def __post_init__(self):
    super().__post_init__()
    if self.view < 0:
      raise ValueError(f'view={self.view}: give 0 or more')

  def __len__(self) -> int:
    steps = -(-len(self.indices) // self.batch_size)
    return steps * self.chunks_per_batch

  def _chunk(self, positions: np.ndarray) -> dict[str, np.ndarray]:
    where = positions < len(self.indices)
    rows = self.indices[np.minimum(positions, len(self.indices) - 1)]
    streams = [(_IN_ORDER, self.view, row) for row in rows]
    return self._load(rows, streams) | {'where': where}


def _rng(seed: int, stream: int, high: int, low: int) -> np.random.Generator:
  # A counter-based generator: neighbours are independent, setting up is cheap.
  return np.random.Generator(
    np.random.Philox(key=(seed, stream), counter=(0, 0, high, low))
  )


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  return _rng(seed, _SHUFFLE, 0, epoch).permutation(size)


def _check_indices(indices: np.ndarray, size: int):
  if indices.ndim != 1 or not indices.size:
    raise ValueError(
      f'indices have shape {indices.shape}: give at least one row number'
    )
  if not np.issubdtype(indices.dtype, np.integer):
    raise ValueError(f'indices are {indices.dtype}: give whole numbers')
  if indices.min() < 0 or indices.max() >= size:
    raise ValueError(
      f'indices reach from {indices.min()} to {indices.max()}: the source has '
      f'rows 0 to {size - 1}'
    )
