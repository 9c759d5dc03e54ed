"""Runs the JAX counting over blocks of queries, split over the devices."""

import collections
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import parallel
from fastfill_jax.curve import inputs, jax_counting

# Queries of one device at a time; more would not be faster.
_BLOCK = 256
_BLOCK_CPU = 32
_AHEAD = 2  # Blocks in flight, so that devices never wait for the host.


class Layout(NamedTuple):
  """How a block of queries is counted."""

  counter: Callable  # `jax_counting.by_scatter` or `by_product`.
  width: int  # Positives of a query, padded to a power of two.
  cutoffs: int  # How many there are.
  chunk: int  # Cut-offs counted at a time.
  block: int  # Queries of one device at a time.
  # True maps policies and queries side by side; None (on CPUs, where batched
  # scatters are slow) one after the other.
  wide: bool | None


def run(problem, process, processes, memory_limit, add):
  """Counts a process's share and hands block after block to `add`.

  Every process runs the same programs equally often, as its devices need.

  Arguments are those of `numba_sweep.run`; `memory_limit` is of each
  accelerator, or of all devices together on CPUs, which share theirs.
  """
  devices = parallel.local_device_count()
  memory = memory_limit // devices if parallel.is_cpu() else memory_limit
  multiply, memory = _gallery(problem, memory)
  constants = problem.scale, problem.shift, problem.buckets
  if np.any(problem.sources != np.arange(problem.sources.size)):
    constants = problem.sources, *constants
  constants = _copy()(constants)
  most = -(-len(problem.queries) // (devices * processes))
  pending = collections.deque()
  start = 0
  while start < len(problem.queries):
    layout = make_layout(problem, problem.positives[start], most, memory)
    share = devices * layout.block
    rows = problem.queries[start + process * share :][:share]
    start += processes * share
    # The last blocks are filled up with copies of the last query.
    filler = np.repeat(problem.queries[-1:], share - len(rows))
    block = _block_inputs(problem, np.append(rows, filler), layout.width)
    query, *lists = map(parallel.shard, block)
    out = _counter(layout)(multiply(query), lists, constants)
    pending.append((rows, out))
    if len(pending) == _AHEAD:
      add(*_fetch(problem, *pending.popleft()))
  for block in pending:
    add(*_fetch(problem, *block))


def make_layout(problem, positives: int, most: int, memory: int) -> Layout:
  """Shares out the memory, in bytes, for at most `most` queries a device."""
  wide = None if parallel.is_cpu() else True
  counter = jax_counting.by_scatter
  # float32 sums are exact up to 2^24.
  if jax.default_backend() == 'tpu' and problem.gallery_size < 2**24:
    counter = jax_counting.by_product
  width = 1 << int(positives).bit_length()
  # Bytes: a query's products as parts, joined and reordered; what counting it
  # takes per item; and per cut-off (changes, counts, relevant, active,
  # precision).
  products = 24 * problem.gallery_size
  query = 40 * problem.gallery_size
  if counter is jax_counting.by_product:
    query += 12 * width * problem.gallery_size
  column = 48 * width * len(problem.buckets)
  memory //= _AHEAD
  if memory < products + query + column:
    raise ValueError(
      'memory_limit does not hold the scores of one query against '
      f'{problem.gallery_size} items: give each device at least '
      f'{2 * _AHEAD * (products + query + column)} bytes.'
    )
  chunk = min(problem.num_cutoffs, max(1, (memory - query) // 2 // column))
  query += chunk * column
  if wide:
    block = min(memory // (products + query), _BLOCK)
  else:
    block = min((memory - query) // products, _BLOCK_CPU)
  block = int(min(max(1, block), most))
  return Layout(counter, width, problem.num_cutoffs, int(chunk), block, wide)


@functools.lru_cache(maxsize=32)
def _counter(layout: Layout) -> Callable:
  """The function for one block, the same for the same layout."""

  def block(products, queries, constants):
    *sources, scale, shift, buckets = constants
    products = jnp.concatenate(products, axis=1)
    if sources:
      products = products[:, sources[0]]
    return jax.lax.map(
      lambda query: jax_counting.count_query(
        *query, scale, shift, buckets, layout=layout
      ),
      (products, *queries),
      batch_size=layout.wide and layout.block,
    )

  return parallel.pmap(block, in_axes=0, out_axes=0)


@functools.cache
def _product() -> Callable:
  """The function that multiplies queries with gallery rows."""
  return parallel.pmap(
    lambda query, part: jnp.dot(query, part.T, precision='highest'),
    in_axes=0,
    out_axes=0,
  )


@functools.cache
def _copy() -> Callable:
  """The function that copies arrays to every local device."""
  copy = parallel.pmap(lambda _, x: x, in_axes=(0, None), out_axes=0)
  return functools.partial(copy, np.arange(parallel.local_device_count()))


def _gallery(problem, memory):
  """Returns the function from queries to dot products, and the memory left.

  The gallery stays on the devices if it takes at most half of the memory, and
  is read again in parts for every block of queries if not.
  """
  size, width = problem.gallery_size, 4 * problem.query.shape[1]
  total = len(problem.states) * size * width
  resident = total <= memory // 2
  rows = size if resident else max(1, memory // 8 // width)

  def parts():
    for state in problem.states:
      for start in range(0, size, rows):
        yield _copy()(inputs.float32(state, slice(start, start + rows)))

  if resident:
    kept = list(parts())
    return lambda query: [_product()(query, x) for x in kept], memory - total

  def multiply(query):
    # Waits, lest parts pile up that are not multiplied yet.
    return [jax.block_until_ready(_product()(query, part)) for part in parts()]

  return multiply, memory - memory // 4


def _block_inputs(problem, rows, width):
  """Returns queries, positives, their count, and columns to leave out."""
  size = problem.gallery_size
  members, twins = [], []
  for row in rows:
    twin = problem.twins[slice(*problem.twin_spans[row])]
    member = problem.members[slice(*problem.member_spans[row])]
    members.append(np.setdiff1d(member, twin) if twin.size else member)
    twins.append(np.append(twin, twin + size))
  most = max(len(twin) for twin in twins)
  # Rows are read in increasing order, repeated or not.
  distinct, inverse = np.unique(rows, return_inverse=True)
  return (
    inputs.float32(problem.query, distinct)[inverse],
    _pad(members, width, 0),
    np.array([len(member) for member in members], np.int32),
    _pad(twins, 1 << most.bit_length(), 2 * size),
  )


def _pad(lists, width, value):
  out = np.full((len(lists), width), value, np.int32)
  for row, entries in zip(out, lists, strict=True):
    row[: len(entries)] = entries
  return out


def _fetch(problem, rows, out):
  """Waits for a block; returns the arguments of `add`."""
  values = []
  for value in map(np.asarray, out):
    # [device, block, chunks, policy, chunk] -> [policy, cutoff, query]
    value = np.concatenate(value).transpose(2, 1, 3, 0)
    value = value.reshape(len(value), -1, value.shape[-1])
    values.append(value[:, : problem.num_cutoffs, : len(rows)])
  return rows, *values
