"""Runs the compiled kernel over blocks of queries, a thread for each core."""

import concurrent.futures
import queue
from typing import NamedTuple

import numba
import numpy as np
import threadpoolctl

from fastfill_jax.curve import inputs, numba_kernel

_QUERIES = 64  # Of one thread at a time.


def run(problem, process, processes, memory_limit, add, with_ranks=False):
  """Counts a process's share and hands block after block to `add`.

  Args:
    problem: An `inputs.Problem`.
    process: Which share of the queries, from 0.
    processes: How many shares there are.
    memory_limit: Bytes of working memory.
    add: Function of queries [block], average precision and the number of
      irrelevant items at least as close as the closest relevant one,
      [policy, cutoff, block]; threads call it at once.
    with_ranks: Whether `add` also takes the ranks of the block's relevant
      items, [policy, member, cutoff] as in `numba_kernel.block`; 0 for twins.
  """
  space = share_out(problem, memory_limit)
  queries = problem.queries[process::processes]
  copies = np.flatnonzero(problem.sources != np.arange(problem.sources.size))
  blocks = range(0, len(queries), space.block)
  buffers = queue.SimpleQueue()
  for _ in range(space.workers):
    buffers.put(np.empty((space.block, 2 * problem.gallery_size), np.float32))

  def work(start):
    buffer = buffers.get()
    try:
      rows = np.sort(queries[start : start + space.block])
      scores = _products(problem, rows, space.rows, buffer[: len(rows)])
      shape = len(problem.buckets), problem.num_cutoffs, len(rows)
      out = np.empty(shape), np.empty(shape, np.int32)
      spans = problem.member_spans[rows]
      members = np.diff(spans).sum() if with_ranks else 0
      ranks = np.zeros((shape[0], members, shape[1]), np.int32)
      numba_kernel.block(
        scores,
        (copies, problem.sources, problem.scale, problem.shift),
        (problem.twins, problem.twin_spans[rows]),
        (problem.members, spans),
        problem.buckets,
        space.table_size,
        out,
        ranks,
      )
    finally:
      buffers.put(buffer)
    add(rows, *out, *([ranks] if with_ranks else []))

  # One query block per thread and single-threaded products: the scores stay
  # in the core's own cache, and nobody waits for the slowest.
  with (
    threadpoolctl.threadpool_limits(1, 'blas'),
    concurrent.futures.ThreadPoolExecutor(space.workers) as executor,
  ):
    for _ in executor.map(work, blocks):
      pass


class Workspace(NamedTuple):
  """How the memory is shared out."""

  workers: int  # Threads.
  block: int  # Queries of one thread at a time.
  rows: int  # Gallery rows read at a time.
  table_size: int  # Numbers in a thread's table [threshold + 1, cutoff].


def share_out(problem, memory_limit: int) -> Workspace:
  """Shares out the memory, in bytes."""
  size = problem.gallery_size
  policies, cutoffs = len(problem.buckets), problem.num_cutoffs
  width = 4 * problem.query.shape[1]
  thresholds = 2 * int(problem.positives[0]) + 1
  # Bytes: per query its scores, its row and what `add` makes of it; per
  # thread three lists of items, and a row of the table as 4-byte counts.
  query = 8 * size + width + 64 * policies * cutoffs
  thread = 12 * size + 64 * thresholds
  least = query + thread + 4 * width
  if memory_limit < least:
    raise ValueError(
      f'memory_limit={memory_limit} does not hold the scores of one query '
      f'against {size} items: give at least {least} bytes.'
    )
  workers = min(numba.config.NUMBA_NUM_THREADS, memory_limit // least)
  share = memory_limit // workers - thread
  block = min(max(1, share // 2 // query), _QUERIES)
  rest = share - block * query
  rows = min(max(1, rest // 2 // width), size)
  table_size = max(thresholds, min(rest // 8, thresholds * cutoffs))
  return Workspace(*map(int, (workers, block, rows, table_size)))


def _products(problem, queries, rows, out):
  """Fills `out` [query, 2 * gallery] with the dot products.

  If both states are one, the second half is left to the copies.
  """
  query = inputs.float32(problem.query, queries)
  size = problem.gallery_size
  for state, array in enumerate(problem.states):
    for start in range(0, size, rows):
      part = inputs.float32(array, slice(start, start + rows))
      begin = state * size + start
      np.matmul(query, part.T, out=out[:, begin : begin + len(part)])
  return out
