"""Retrieval metrics of one query, as pure functions of scores.

All are maskable and free of NaN, so they `vmap` over queries and `jit` with
fixed shapes. A score is a similarity: larger is closer.
"""

import jax
import jax.numpy as jnp


def average_precision(
  scores: jax.Array, relevant: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Tie-aware average precision.

  The mean, over the relevant items, of the share of relevant items among all
  that score at least as high. Equal scores form one threshold, as in
  scikit-learn's `average_precision_score`; definitions that break ties by
  position differ wherever there are any.

  Args:
    scores: Similarities [gallery].
    relevant: True for the items with the query's label, bool [gallery].
    where: False leaves an item out, bool [gallery].

  Returns:
    A float32 scalar in [0, 1]; 0 if no item is relevant. Leave such a query
    out of a mean: it has no average precision.

  Raises:
    ValueError: If the shapes differ.
  """
  relevant, where = _masks(scores, relevant, where)
  scores = jnp.where(where, scores, -jnp.inf)
  order = jnp.argsort(-scores)
  scores, relevant, where = scores[order], relevant[order], where[order]
  # How many score at least as high: read at the last item of each tie.
  last = jnp.searchsorted(-scores, -scores, side='right') - 1
  hits = jnp.cumsum(relevant)[last]
  seen = jnp.cumsum(where)[last]
  precision = hits / jnp.maximum(seen, 1)
  total = jnp.sum(relevant)
  return jnp.sum(precision * relevant) / jnp.maximum(total, 1)


def cmc(
  scores: jax.Array,
  relevant: jax.Array,
  k: int,
  where: jax.Array | None = None,
) -> jax.Array:
  """Cumulative matching characteristic: is a relevant item among the first k?

  With ties the least favourable order counts: a hit needs fewer than k
  irrelevant items at least as close as the closest relevant one.

  Args:
    scores: Similarities [gallery].
    relevant: True for the items with the query's label, bool [gallery].
    k: How many items are looked at, at least 1.
    where: False leaves an item out, bool [gallery].

  Returns:
    A float32 scalar, 1 for a hit and else 0; 0 if no item is relevant.

  Raises:
    ValueError: If the shapes differ or k is below 1.
  """
  if k < 1:
    raise ValueError(f'k={k} is not a rank; ranks start at 1.')
  relevant, where = _masks(scores, relevant, where)
  best = jnp.max(scores, where=relevant, initial=-jnp.inf)
  closer = jnp.sum((scores >= best) & where & ~relevant)
  return (jnp.any(relevant) & (closer < k)).astype(jnp.float32)


def _masks(scores, relevant, where):
  if where is None:
    where = jnp.ones(scores.shape, bool)
  if not scores.shape == relevant.shape == where.shape or scores.ndim != 1:
    raise ValueError(
      'scores, relevant and where must share one shape [gallery], got '
      f'{scores.shape}, {relevant.shape} and {where.shape}.'
    )
  where = where.astype(bool)
  return relevant.astype(bool) & where, where
