"""Batches, computed ahead by Grain in threads or worker processes."""

import os
from collections.abc import Iterator

import numpy as np

from fastfill_jax.data import batches, sources, transforms

_ENDLESS = 2**40


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
    num_steps: length of the whole run, from step 0; endless by default.
    process_index: this process's number; it gets the rows from
      process_index * batch_size / process_count on.
    process_count: number of processes.
    num_threads: that read and augment; by default one per core, or one in
      each worker.
    num_workers: processes that do so instead, for transforms that hold Python's
      lock (`simclr`); absl's flags must be parsed (`app.run`).
    prefetch: batches kept ready.

  Yields:
    'image' uint8 [batch, (view,) height, width, channel], 'label' int32
    [batch], and 'index' int32 [batch], the row in the source.

  Raises:
    ValueError: no indices, or rows, sizes, steps out of range.
  """
  num_steps = _ENDLESS if num_steps is None else num_steps
  if not 0 <= start_step <= num_steps:
    raise ValueError(
      f'start_step={start_step}: give 0 to num_steps={num_steps}'
    )
  run = batches.Shuffled(
    source=source,
    indices=np.asarray(indices),
    transform=transform,
    batch_size=batch_size,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
    num_steps=num_steps,
  )
  return _ahead(run, start_step, num_threads, num_workers, prefetch)


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
  run = batches.InOrder(
    source=source,
    indices=np.asarray(indices),
    transform=transform,
    batch_size=batch_size,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
    view=view,
  )
  return _ahead(run, 0, num_threads, num_workers, prefetch)


def _ahead(
  run: batches.Batches,
  start_step: int,
  num_threads: int | None,
  num_workers: int,
  prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Checks the rest of the arguments and starts computing."""
  if num_threads is None:
    num_threads = 1 if num_workers else os.cpu_count()
  if num_threads < 0 or num_workers < 0 or prefetch < 1:
    raise ValueError(
      f'num_threads={num_threads}, num_workers={num_workers}, prefetch='
      f'{prefetch}: give 0 or more threads and workers, 1 or more batches'
    )
  import grain

  parts = run.chunks_per_batch
  ready = max(num_threads, prefetch * parts) if num_threads else 0
  chunks = grain.MapDataset.source(run)[start_step * parts :]
  dataset = chunks.to_iter_dataset(
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
