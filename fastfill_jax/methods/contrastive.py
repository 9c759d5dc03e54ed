"""Terms that compare every query of a batch with a gallery of the batch.

In each, a query is a new embedding, in the gallery's space; the gallery holds
what `aligned` and `query` give of the same batch, on all devices; the loss is

  -mean over positives p of log( exp s(q, p) / sum over candidates of exp s )

and 0 for a query without positives. But for the class contrast, the similarity
s is -|q - g|^2 / (temperature * new_square), `new_square` the mean squared
distance of two new embeddings: what an L2 index ranks by, on one scale for all
data.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from fastfill_jax import losses, parallel


def info_nce(
  aligned: jax.Array,
  query: jax.Array,
  new_square: jax.Array,
  *,
  temperature: float = 0.1,
) -> jax.Array:
  """The own item before all others: InfoNCE (arXiv 1807.03748), no labels."""
  gallery, own = parallel.everywhere(aligned)
  similarity = nearness(query, gallery, temperature * new_square)
  return ranked(similarity, own, jnp.ones_like(own))


def mixed(
  aligned: jax.Array,
  aligned_offset: jax.Array,
  stored: jax.Array,
  stored_offset: jax.Array,
  query: jax.Array,
  label: jax.Array,
  new_square: jax.Array,
  key: jax.Array,
  *,
  mask: Literal['random', 'none'] = 'random',
  over: Literal['each', 'any', 'both'] = 'each',
  temperature: float = 0.1,
) -> jax.Array:
  """The own class before the others, in a gallery that is half backfilled.

  A share p ~ U[0, 1] of the batch, drawn anew for each, is backfilled, so that
  the loss stands for the area under the backfilling curve. `mask='none'` leaves
  all items aligned: the supervised contrast (arXiv 2004.11362) of two models.
  As in retrieval, a query is left out of its own ranking. An item's offset is
  added to its squared distance. With p the softmax over the batch, the loss is
  the mean of -log p over the positives ('each'), -log of the sum of their p
  ('any', as in neighbourhood components analysis), or the mean of both.
  """
  gallery, offset = aligned, aligned_offset
  if mask == 'random':
    key_share, key_items = jax.random.split(key)
    share = parallel.everywhere(jax.random.uniform(key_share, (1,)))[0][0]
    backfilled = jax.random.uniform(key_items, (len(query), 1)) < share
    gallery = jnp.where(backfilled, stored, aligned)
    offset = jnp.where(backfilled[:, 0], stored_offset, aligned_offset)
  gallery, own = parallel.everywhere(gallery)
  others = ~own
  scale = temperature * new_square
  similarity = nearness(query, gallery, scale)
  similarity -= parallel.everywhere(offset)[0][None] / scale
  positives = same(label) & others
  each = ranked(similarity, positives, others)
  if over == 'each':
    return each
  found = any_ranked(similarity, positives, others)
  return found if over == 'any' else (each + found) / 2


def metric_compatible(
  aligned: jax.Array,
  query: jax.Array,
  label: jax.Array,
  new_square: jax.Array,
  *,
  temperature: float = 0.1,
) -> jax.Array:
  """The own class before other classes of both halves of a mixed gallery.

  Metric-compatible training (Seo et al., WACV 2025, arXiv 2301.03767): among
  the candidates of an aligned positive are the new negatives too, and among
  those of a new positive the aligned ones; the mean of the two losses.
  """
  (old_half, own), (new_half, _) = map(parallel.everywhere, (aligned, query))
  others = ~own
  positives, negatives = same(label) & others, ~same(label)
  scale = temperature * new_square
  similarity = [nearness(query, half, scale) for half in (old_half, new_half)]
  none = jnp.zeros_like(positives)
  counted = jnp.hstack([positives, none]), jnp.hstack([others, negatives])
  values = ranked(jnp.hstack(similarity), *counted)
  return (values + ranked(jnp.hstack(similarity[::-1]), *counted)) / 2


def contrast(
  aligned: jax.Array,
  query: jax.Array,
  label: jax.Array,
  *,
  temperature: float = 0.1,
) -> jax.Array:
  """The own class, own item included, before the others, by cosine.

  Supervised contrast (arXiv 2004.11362) of aligned items with new ones; of
  different widths, by the coordinates that both have.
  """
  width = min(aligned.shape[1], query.shape[1])
  gallery, _ = parallel.everywhere(losses.normalise(query[:, :width]))
  similarity = losses.normalise(aligned[:, :width]) @ gallery.T / temperature
  return ranked(similarity, same(label), jnp.ones_like(similarity, bool))


def contrast_old(
  aligned: jax.Array,
  old: jax.Array,
  label: jax.Array,
  *,
  temperature: float = 0.1,
) -> jax.Array:
  """`contrast` of aligned items with old ones."""
  return contrast(aligned, old, label, temperature=temperature)


def ranked(
  similarity: jax.Array, positives: jax.Array, candidates: jax.Array
) -> jax.Array:
  """-mean over positives of the log-softmax over candidates, [query].

  All are [query, gallery]; positives are candidates. 0 without positives.
  """
  total = jax.nn.logsumexp(similarity, axis=1, where=candidates)
  count = jnp.sum(positives, axis=1)
  own = jnp.sum(similarity, axis=1, where=positives) / jnp.maximum(count, 1)
  return jnp.where(count > 0, total - own, 0)


def any_ranked(
  similarity: jax.Array, positives: jax.Array, candidates: jax.Array
) -> jax.Array:
  """-log of the positives' share of the softmax over candidates.

  Neighbourhood components analysis (Goldberger et al., NeurIPS 2004); as
  `ranked`.
  """
  total = jax.nn.logsumexp(similarity, axis=1, where=candidates)
  some = jnp.any(positives, axis=1)
  # Without a positive the sum would be log 0, and its slope NaN.
  counted = jnp.where(some[:, None], positives, candidates)
  own = jax.nn.logsumexp(similarity, axis=1, where=counted)
  return jnp.where(some, total - own, 0)


def nearness(query: jax.Array, gallery: jax.Array, scale) -> jax.Array:
  """-|q - g|^2 / scale, [query, gallery]."""
  square = (
    jnp.sum(query**2, axis=1)[:, None] + jnp.sum(gallery**2, axis=1)[None]
  )
  return (2 * query @ gallery.T - square) / scale


def same(label: jax.Array) -> jax.Array:
  """Whether own rows and all devices' are of one class, [row, all rows]."""
  return label[:, None] == parallel.everywhere(label)[0][None]
