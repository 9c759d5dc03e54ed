"""Metrics of listed relevant items, through the one-pass sweep.

Where labels say what is relevant, `curve.sweep` is enough. Judgements come as
pairs of a query and an item with a grade, and without either a query's nearest
items in the new space can stand in for them. Both are a list of items a query,
and all that their metrics read are the ranks of these items at each cut-off: a
rank is the number of items at least as close, itself included, so that ties
count against the order.

  metric      of a query                                       grades
  mAP         mean over its items of (items as high) / rank    any
  ndcg@k      sum of grade / log2(1 + rank) over its ideal     gains
  mrr@k       1 / the first item's rank, 0 beyond k            any
  recall@k    share of its items with rank <= k                any
  overlap@k   share of the first k references with rank <= k   reference ranks
  rbo@p       rank-biased overlap, truncated and normalised    reference ranks

nDCG's gains are linear, as trec_eval has them. Rank-biased overlap (Webber,
Moffat and Zobel, 2010) is the mean over depths d of the overlap of the first d,
with weights p^(d-1); here d ends at the longest reference.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastfill_jax import choices
from fastfill_jax.curve import inputs

_FAR = np.iinfo(np.int32).max


def sweep(
  query: Any,
  aligned: Any,
  new: Any,
  relevant: np.ndarray,
  grades: np.ndarray,
  orders: np.ndarray,
  cutoffs: np.ndarray,
  *,
  metrics: Sequence[str],
  distance: str = 'l2',
  query_ids: np.ndarray | None = None,
  gallery_ids: np.ndarray | None = None,
  memory_limit: int = 2**30,
) -> dict[str, np.ndarray]:
  """Exact metrics of every order at every cut-off, compiled for CPUs.

  Args:
    query: New embeddings of the queries [query, embedding].
    aligned: Of the gallery [gallery, embedding]; like `curve.sweep`'s.
    new: Of the gallery [gallery, embedding].
    relevant: Pairs of a query and an item, int [2, pair].
    grades: Of every pair, positive [pair].
    orders: First to be backfilled first, int [policy, gallery].
    cutoffs: Increasing numbers of backfilled items, int [cutoff].
    metrics: Names as in the module's table.
    distance: 'l2' or 'cosine'.
    query_ids: Integers or strings [query].
    gallery_ids: Items with a query's id are left out of its ranking.
    memory_limit: Bytes of working memory.

  Returns:
    {metric: float32 [policy, cutoff, query]}, NaN for queries without a
    relevant item.

  Raises:
    ValueError: If an argument does not fit, before anything is computed.
  """
  from fastfill_jax.curve import numba_sweep

  functions = {name: _parse(name) for name in metrics}
  relevant, grades = np.asarray(relevant), np.asarray(grades, np.float64)
  if grades.shape != relevant.shape[1:] or (grades <= 0).any():
    raise ValueError(
      f'grades must be positive, one for each of {relevant.shape[1:]} pairs; '
      f'got {grades.shape}, the least {grades.min(initial=np.inf)}.'
    )
  if (np.diff(cutoffs) <= 0).any():
    raise ValueError(f'cutoffs must increase, got {cutoffs}.')
  problem = inputs.prepare(
    query,
    aligned,
    new,
    None,
    None,
    orders,
    np.asarray(cutoffs),
    distance=distance,
    query_ids=query_ids,
    gallery_ids=gallery_ids,
    relevant=relevant,
  )
  # The sweep lists a query's items in their own order.
  grades = grades[np.lexsort(relevant[::-1])]
  shape = len(problem.buckets), len(cutoffs), len(query)
  values = {name: np.full(shape, np.nan, np.float32) for name in metrics}

  def add(rows, precision, closer, ranks):
    del closer
    spans = problem.member_spans[rows]
    members = np.concatenate([np.arange(*span) for span in spans])
    starts = np.cumsum(np.r_[0, np.diff(spans)[:-1, 0]])
    for name, function in functions.items():
      if function is None:
        values[name][..., rows] = precision
      else:
        of_query = function(ranks, grades[members], starts)
        values[name][..., rows] = np.swapaxes(of_query, 1, 2)

  numba_sweep.run(problem, 0, 1, memory_limit, add, with_ranks=True)
  return values


def ndcg(ranks, grades, starts, k) -> np.ndarray:
  """nDCG@k; ranks [policy, member, cutoff], grades [member].

  Args:
    ranks: Of the items of one query after another; 0 for left out items.
    grades: Of these items.
    starts: Where each query's items begin [query].
    k: Depth.

  Returns:
    [policy, query, cutoff].
  """
  ranks, left = _real(ranks)
  grades = np.where(left, 0, grades)
  hits = (ranks <= k) / np.log2(1 + np.minimum(ranks, k).astype(np.float64))
  gained = np.add.reduceat(hits * grades[None, :, None], starts, axis=1)
  query = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(grades)]))
  order = np.lexsort((-grades, query))
  place = np.arange(len(grades)) - starts[query] + 1
  best = np.where(place <= k, grades[order] / np.log2(1 + place), 0)
  return gained / np.add.reduceat(best, starts)[None, :, None]


def mrr(ranks, grades, starts, k) -> np.ndarray:
  """Reciprocal rank of the first relevant item; arguments as in `ndcg`."""
  first = np.minimum.reduceat(_real(ranks)[0], starts, axis=1)
  return np.where(first <= k, 1 / first, 0)


def recall(ranks, grades, starts, k) -> np.ndarray:
  """Share of the relevant items among the first k; as in `ndcg`."""
  ranks, left = _real(ranks)
  hits = np.add.reduceat((ranks <= k).astype(np.int64), starts, axis=1)
  return hits / np.add.reduceat(~left * 1, starts)[None, :, None]


def overlap(ranks, grades, starts, k) -> np.ndarray:
  """Share of the first k references among the first k; as in `ndcg`."""
  ranks, left = _real(ranks)
  mine = (grades <= k) & ~left
  both = (ranks <= k) & mine[None, :, None]
  hits = np.add.reduceat(both.astype(np.int64), starts, axis=1)
  return hits / np.maximum(np.add.reduceat(mine * 1, starts), 1)[None, :, None]


def rbo(ranks, grades, starts, p) -> np.ndarray:
  """Rank-biased overlap; arguments as in `ndcg`, p in (0, 1)."""
  ranks, _ = _real(ranks)
  depth = int(grades.max())
  weights = p ** np.arange(depth)
  # An item that both hold by depth m counts at every depth from m on.
  tails = np.cumsum((weights / np.arange(1, depth + 1))[::-1])[::-1]
  table = np.concatenate([[0], tails, [0]]) / weights.sum()
  met = np.maximum(ranks, grades[None, :, None])
  gained = table[np.minimum(met, depth + 1).astype(np.int64)]
  return np.add.reduceat(gained, starts, axis=1)


_METRICS: dict[str, Callable[..., np.ndarray]] = {
  'ndcg': ndcg,
  'mrr': mrr,
  'recall': recall,
  'overlap': overlap,
  'rbo': rbo,
}


def _parse(name: str) -> Callable[..., np.ndarray] | None:
  """The function of a metric's name; None for 'mAP', which the sweep has."""
  if name == 'mAP':
    return None
  kind, _, depth = name.partition('@')
  try:
    choices.check('metric', kind, (*_METRICS, 'mAP'))
    number = float(depth) if kind == 'rbo' else int(depth)
  except ValueError as error:
    raise ValueError(f'{name!r} is not a metric: {error}') from None
  if not (0 < number < 1 if kind == 'rbo' else number >= 1):
    raise ValueError(f'{name!r}: a depth is at least 1, a p between 0 and 1.')
  keyword = {'p' if kind == 'rbo' else 'k': number}
  return functools.partial(_METRICS[kind], **keyword)


def _real(ranks):
  """Puts items that are left out behind all others; says which they are."""
  return np.where(ranks > 0, ranks, _FAR), ranks[0, :, 0] == 0


def neighbours(
  query: Any,
  gallery: Any,
  depth: int,
  *,
  distance: str = 'l2',
  query_ids: np.ndarray | None = None,
  gallery_ids: np.ndarray | None = None,
  block: int = 2**24,
) -> np.ndarray:
  """The nearest items of each query, nearest first, int [query, depth].

  Args:
    query: [query, embedding].
    gallery: [gallery, embedding]; read in slices.
    depth: How many.
    distance: 'l2' or 'cosine'.
    query_ids: Integers [query].
    gallery_ids: Items with a query's id are no neighbours of it.
    block: Scores held at a time.

  Raises:
    ValueError: If the gallery holds fewer items than that.
  """
  room = len(gallery) - (query_ids is not None)
  if not 1 <= depth <= room:
    raise ValueError(f'depth={depth} neighbours of a gallery of {room} items.')
  rows = min(len(gallery), max(depth, 16_384))
  best = []
  for start in range(0, len(query), max(1, block // rows)):
    part = slice(start, start + max(1, block // rows))
    mine = inputs.float32(query, part)
    scores = np.empty((len(mine), 0), np.float32)
    items = np.empty((len(mine), 0), np.int64)
    for first in range(0, len(gallery), rows):
      held = inputs.float32(gallery, slice(first, first + rows))
      fresh = _similarity(mine, held, distance)
      if query_ids is not None:
        theirs = gallery_ids[first : first + rows]
        fresh[query_ids[part][:, None] == theirs[None]] = -np.inf
      number = np.arange(first, first + len(held))
      scores = np.hstack([scores, fresh])
      items = np.hstack([items, np.broadcast_to(number, fresh.shape)])
      scores, items = _keep(scores, items, depth)
    order = np.argsort(-scores, axis=1, kind='stable')
    best.append(np.take_along_axis(items, order, axis=1))
  return np.concatenate(best)


def _similarity(query, gallery, distance):
  square = np.einsum('ge,ge->g', gallery, gallery)
  if distance == 'l2':
    return query @ gallery.T - square / 2
  return query @ gallery.T / np.sqrt(np.where(square > 0, square, 1))


def _keep(scores, items, depth):
  if scores.shape[1] <= depth:
    return scores, items
  kept = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
  return tuple(np.take_along_axis(x, kept, axis=1) for x in (scores, items))
