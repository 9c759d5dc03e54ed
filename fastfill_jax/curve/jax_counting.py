"""The exact sweep's counting step in JAX, for any device.

The idea is that of the compiled kernel in `curve.numba_kernel`. One function
counts for one query; it is mapped over policies and queries.
"""

import jax
import jax.numpy as jnp

from fastfill_jax import parallel


def _ranks(scores, thresholds):
  """Counts the thresholds at or below each score, by bisection.

  Scores are float32 [item], thresholds non-decreasing float32 [2^k], the last
  one infinite. Returns int32 [item].
  """
  ranks = jnp.zeros(scores.shape, jnp.int32)
  step = thresholds.size // 2
  while step:
    middle = thresholds.at[ranks + (step - 1)].get(mode='promise_in_bounds')
    ranks += jnp.where(middle <= scores, step, 0)
    step //= 2
  return ranks


def _sum_from(values, axis, reverse=False):
  """Like `jax.lax.cumsum` of a matrix, which is slow on CPUs for long rows."""
  if not parallel.is_cpu() or values.shape[1 - axis] < 128:
    return jax.lax.cumsum(values, axis, reverse)
  rows = jnp.moveaxis(values, axis, 0)
  _, sums = jax.lax.scan(
    lambda total, row: (total + row, total + row),
    jnp.zeros_like(rows[0]),
    rows,
    reverse=reverse,
  )
  return jnp.moveaxis(sums, 0, axis)


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
    return _sum_from(table, 0, reverse=True) - table

  return jax.lax.cumsum(base, reverse=True) - base, change


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


def count_query(
  products, positives, count, twins, scale, shift, buckets, *, layout
):
  """Counts for one query.

  Args:
    products: Dot products float32 [2 * gallery].
    positives: Relevant items, padded to 2^k > count, int32 [positive].
    count: How many of them are real.
    twins: Columns to leave out, padded with 2 * gallery, int32 [twin].
    scale: These three as in `inputs.Problem`.
    shift: [2 * gallery].
    buckets: [policy, gallery].
    layout: A `jax_sweep.Layout`.

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
  base, change = layout.counter(aligned, new, thresholds, layout.chunk)

  def policy(bucket):
    counts = base[:, None] + _sum_from(change(bucket), 1)
    turn = bucket[positives[positive]]
    active = (jnp.arange(layout.chunk)[None] < turn[:, None]) ^ is_new[:, None]
    active &= real[positive][:, None]
    relevant = _sum_from(active.astype(jnp.int32), 0, reverse=True)[first]
    precision = relevant / jnp.maximum(counts, 1)
    closer = jnp.where(active, counts - relevant, size)
    total = jnp.sum(precision, axis=0, where=active)
    return total / count, jnp.min(closer, axis=0)

  def chunk(start):
    # Whatever was backfilled before is new from the first column on.
    turns = jnp.maximum(buckets - start, 0)
    return jax.lax.map(policy, turns, batch_size=layout.wide and len(turns))

  starts = jnp.arange(0, layout.cutoffs, layout.chunk)
  return jax.lax.map(chunk, starts)
