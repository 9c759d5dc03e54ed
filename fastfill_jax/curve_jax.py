"""The exact sweep's counting step in JAX, for any device.

The idea is that of the compiled kernel in `curve_numba`: the scores of a
query's relevant items are thresholds, every gallery item is ranked among them
in both states, and a policy only decides at which cut-off an item's rank
changes. One function counts for one query; it is mapped over policies and
queries, and the queries are split over the devices.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import curve_inputs, parallel

# Queries of one device at a time; more would not be faster.
_BLOCK = 256
_BLOCK_CPU = 32
_AHEAD = 2  # Blocks in flight, so that devices never wait for the host.


def _ranks(scores, thresholds):
  """Counts the thresholds at or below each score, by bisection.

  Args:
    scores: float32 [item].
    thresholds: Non-decreasing float32 [2^k], the last infinite.

  Returns:
    int32 [item].
  """
  ranks = jnp.zeros(scores.shape, jnp.int32)
  step = thresholds.size // 2
  while step:
    middle = thresholds.at[ranks + (step - 1)].get(mode='promise_in_bounds')
    ranks += jnp.where(middle <= scores, step, 0)
    step //= 2
  return ranks


def _from_the_end(values):
  """Sums each row and those after it."""
  return jnp.cumsum(values[::-1], axis=0)[::-1]


def by_scatter(aligned, new, thresholds, cutoffs):
  """Counts items at or above each threshold, by histograms of ranks.

  Args:
    aligned: float32 [gallery].
    new: float32 [gallery].
    thresholds: float32 [threshold] as in `_ranks`.
    cutoffs: Number of cut-offs.

  Returns:
    The counts in the aligned state, int32 [threshold], and a function: given
    the cut-off that backfills each item, int32 [gallery] (`cutoffs` or more
    if none does), how much the items of each cut-off change the counts, int32
    [threshold, cutoff].
  """
  size = thresholds.size
  before = _ranks(aligned, thresholds)
  after = _ranks(new, thresholds)
  base = jnp.zeros(size, jnp.int32).at[before].add(1)

  def change(bucket):
    # Items that are never backfilled fall off the end of the table.
    column = jnp.where(bucket < cutoffs, bucket, size * cutoffs)
    table = jnp.zeros(size * cutoffs, jnp.int32)
    table = table.at[before * cutoffs + column].add(-1, mode='drop')
    table = table.at[after * cutoffs + column].add(1, mode='drop')
    table = table.reshape(size, cutoffs)
    # An item of rank r is at or above the thresholds 0 .. r - 1.
    return _from_the_end(table) - table

  return _from_the_end(base) - base, change


def by_product(aligned, new, thresholds, cutoffs):
  """The same by matrix products, for TPUs, where scatters are slow.

  Comparisons are -1, 0 or 1 and exact in bfloat16, their sums in float32.
  """
  before = aligned[None] >= thresholds[:, None]
  after = new[None] >= thresholds[:, None]
  moves = after.astype(jnp.bfloat16) - before.astype(jnp.bfloat16)

  def change(bucket):
    columns = jax.nn.one_hot(bucket, cutoffs, dtype=jnp.bfloat16)
    sums = jnp.dot(moves, columns, preferred_element_type=jnp.float32)
    return sums.astype(jnp.int32)

  return jnp.sum(before, axis=1, dtype=jnp.int32), change


def _count_query(
  products, positives, count, twins, scale, shift, buckets, *, plan
):
  """Counts for one query.

  Args:
    products: Dot products float32 [2 * gallery].
    positives: Relevant items, padded to 2^k > count, int32 [positive].
    count: How many of them are real.
    twins: Columns to leave out, padded with 2 * gallery, int32 [twin].
    scale: float32 [2 * gallery].
    shift: float32 [2 * gallery].
    buckets: First cut-off at which an item is new, int32 [policy, gallery].
    plan: A `_Plan`.

  Returns:
    Average precision, float32, and the number of irrelevant items at least as
    close as the closest relevant one, int32, [chunk, policy, cutoff].
  """
  scores = products * scale + shift
  scores = scores.at[twins].set(-jnp.inf, mode='drop')
  size = scores.size // 2
  aligned, new = scores[:size], scores[size:]
  real = jnp.arange(positives.size) < count
  events = jnp.stack([aligned[positives], new[positives]])
  events = jnp.where(real[None], events, jnp.inf).ravel()
  order = jnp.argsort(events)
  thresholds = events[order]
  # Equal scores are one threshold: what counts for the first counts for all.
  first = jnp.searchsorted(thresholds, thresholds)
  positive, is_new = order % positives.size, order >= positives.size
  base, change = plan.counter(aligned, new, thresholds, plan.chunk)

  def policy(bucket):
    counts = base[:, None] + jnp.cumsum(change(bucket), axis=1)
    turn = bucket[positives[positive]]
    active = (jnp.arange(plan.chunk)[None] < turn[:, None]) ^ is_new[:, None]
    active &= real[positive][:, None]
    relevant = _from_the_end(active.astype(jnp.int32))[first]
    precision = relevant / jnp.maximum(counts, 1)
    closer = jnp.where(active, counts - relevant, size)
    total = jnp.sum(precision, axis=0, where=active)
    return total / count, jnp.min(closer, axis=0)

  def chunk(start):
    # Whatever was backfilled before is new from the first column on.
    turns = jnp.maximum(buckets - start, 0)
    return jax.lax.map(policy, turns, batch_size=plan.wide and len(turns))

  starts = jnp.arange(0, plan.cutoffs, plan.chunk)
  return jax.lax.map(chunk, starts)


@dataclasses.dataclass(frozen=True)
class _Plan:
  """How a block of queries is counted.

  Attributes:
    counter: `by_scatter` or `by_product`.
    width: Positives of a query, padded to a power of two.
    cutoffs: How many there are.
    chunk: Cut-offs counted at a time.
    block: Queries of one device at a time.
    wide: True maps policies and queries side by side; None (on CPUs, where
      batched scatters are slow) one after the other.
  """

  counter: Callable
  width: int
  cutoffs: int
  chunk: int
  block: int
  wide: bool | None


def _make_plan(problem, positives: int, most: int, memory: int) -> _Plan:
  """Shares out the memory, in bytes, for at most `most` queries a device."""
  wide = None if parallel.is_cpu() else True
  counter = by_product if jax.default_backend() == 'tpu' else by_scatter
  width = 1 << int(positives).bit_length()
  # Bytes: a query's products, what counting it takes per item, and what each
  # cut-off adds (changes, counts, relevant, active, precision).
  products = 8 * problem.gallery_size
  query = 5 * products
  if counter is by_product:
    query += 12 * width * problem.gallery_size
  column = 48 * width * len(problem.buckets)
  memory //= _AHEAD
  if memory < products + query + column:
    raise ValueError(
      'memory_limit does not hold the scores of one query against '
      f'{problem.gallery_size} items: give a few times '
      f'{_AHEAD * (products + query + column)} bytes for each device.'
    )
  chunk = min(problem.num_cutoffs, max(1, (memory - query) // 2 // column))
  query += chunk * column
  if wide:
    block = min(memory // (products + query), _BLOCK)
  else:
    block = min((memory - query) // products, _BLOCK_CPU)
  block = int(min(max(1, block), most))
  return _Plan(counter, width, problem.num_cutoffs, int(chunk), block, wide)


@functools.lru_cache(maxsize=32)
def _counter(plan: _Plan) -> Callable:
  """Returns the function for one block, the same for the same plan."""

  def block(products, queries, constants):
    scale, shift, buckets, copies, originals = constants
    products = jnp.concatenate(products, axis=1)
    products = products.at[:, copies].set(products[:, originals])
    return jax.lax.map(
      lambda query: _count_query(*query, scale, shift, buckets, plan=plan),
      (products, *queries),
      batch_size=plan.wide and plan.block,
    )

  return parallel.pmap(block, in_axes=0, out_axes=0)


@functools.cache
def _simple():
  """Returns the functions that copy to, and multiply on, every device."""
  copy = parallel.pmap(lambda _, x: x, in_axes=(0, None), out_axes=0)
  copy = functools.partial(copy, np.arange(parallel.local_device_count()))
  product = parallel.pmap(
    lambda query, part: jnp.dot(query, part.T, precision='highest'),
    in_axes=0,
    out_axes=0,
  )
  return copy, product


def run(problem, share, memory_limit, add):
  """Counts a share of the queries and hands block after block to `add`.

  Args:
    problem: A `curve_inputs.Problem`.
    share: Slice of `problem.queries`.
    memory_limit: Bytes of working memory: of each accelerator, or of all
      devices together on CPUs, which share theirs.
    add: Function of queries [block], average precision and the number of
      irrelevant items before the closest relevant one, [policy, cutoff, block].

  Raises:
    ValueError: If the memory does not hold one query's scores.
  """
  devices = parallel.local_device_count()
  memory = memory_limit // devices if parallel.is_cpu() else memory_limit
  copy, product = _simple()
  parts, memory = _gallery(problem, memory, copy)
  constants = copy(
    (
      problem.scale,
      problem.shift,
      problem.buckets,
      problem.copies.astype(np.int32),
      problem.originals.astype(np.int32),
    )
  )
  queries, positives = problem.queries[share], problem.positives[share]
  most = -(-len(queries) // devices)
  pending = collections.deque()
  start = 0
  while start < len(queries):
    plan = _make_plan(problem, positives[start], most, memory)
    rows = queries[start : start + devices * plan.block]
    start += len(rows)
    # The last block is filled up with copies of its last query.
    padded = np.resize(rows, devices * plan.block)
    padded[len(rows) :] = rows[-1]
    query, *lists = (
      x.reshape(devices, plan.block, *x.shape[1:])
      for x in _block_inputs(problem, padded, plan.width)
    )
    products = tuple(product(query, part) for part in parts())
    pending.append((rows, _counter(plan)(products, lists, constants)))
    if len(pending) == _AHEAD:
      add(*_fetch(*pending.popleft(), problem))
  for rows, out in pending:
    add(*_fetch(rows, out, problem))


def _gallery(problem, memory, copy):
  """Returns a function that yields the gallery's parts, and memory left.

  They stay on the devices if they take at most half of the memory, and are
  read again for every block of queries if not.
  """
  size, width = problem.gallery_size, 4 * problem.query.shape[1]
  resident = 2 * size * width <= memory // 2
  rows = size if resident else max(1, memory // 8 // width)

  def parts():
    for state in problem.states:
      for start in range(0, size, rows):
        yield copy(curve_inputs.float32(state, slice(start, start + rows)))

  if not resident:
    return parts, memory - memory // 4
  kept = list(parts())
  return lambda: kept, memory - 2 * size * width


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
  return (
    _rows(problem.query, rows),
    _pad(members, width, 0),
    np.array([len(member) for member in members], np.int32),
    _pad(twins, 1 << most.bit_length(), 2 * size),
  )


def _rows(array, rows):
  """Reads rows in any order, repeated or not, in increasing order."""
  rows, inverse = np.unique(rows, return_inverse=True)
  return curve_inputs.float32(array, rows)[inverse]


def _pad(lists, width, value):
  out = np.full((len(lists), width), value, np.int32)
  for row, entries in zip(out, lists, strict=True):
    row[: len(entries)] = entries
  return out


def _fetch(rows, out, problem):
  """Waits for a block; returns the arguments of `add`."""
  values = []
  for value in map(np.asarray, out):
    _, _, chunks, policies, chunk = value.shape
    # [device, block, chunks, policy, chunk] -> [policy, cutoff, query]
    value = value.reshape(-1, chunks, policies, chunk).transpose(2, 1, 3, 0)
    value = value.reshape(policies, chunks * chunk, -1)
    values.append(value[:, : problem.num_cutoffs, : len(rows)])
  return rows, *values
