"""Metrics of listed relevant items, through the one-pass sweep.

Judgements are pairs of a query and an item with a grade; without any a query's
nearest items in the new space can stand in for them. All that the metrics read
are the ranks of these items at each cut-off: a rank is the number of items at
least as close, itself included, so that ties count against the order.

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

  In place of the labels of `curve.sweep` it takes `relevant`, pairs of a query
  and an item, int [2, pair], and their `grades`, positive [pair]. The cut-offs
  have to increase; `metrics` are names as in the module's table.

  Returns:
    {metric: float32 [policy, cutoff, query]}, NaN for queries without a
    relevant item.

  Raises:
    ValueError: If an argument does not fit, before anything is computed.
  """
  from fastfill_jax.curve import numba_sweep

  functions = {name: _parse(name) for name in metrics if name != 'mAP'}
  relevant, grades = np.asarray(relevant), np.asarray(grades, np.float64)
  if grades.shape != relevant.shape[1:] or (grades <= 0).any():
    raise ValueError(
      f'grades must be positive, one for each of {relevant.shape[1:]} pairs; '
      f'got {grades.shape}, the least {grades.min(initial=np.inf)}.'
    )
  problem = inputs.prepare(
    query,
    aligned,
    new,
    None,
    orders,
    np.asarray(cutoffs),
    distance=distance,
    ids=(query_ids, gallery_ids),
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
    if 'mAP' in values:
      values['mAP'][..., rows] = precision
    for name, function in functions.items():
      of_query = function(ranks, grades[members], starts)
      values[name][..., rows] = np.swapaxes(of_query, 1, 2)

  numba_sweep.run(problem, 0, 1, memory_limit, add, with_ranks=True)
  return values


# All of these take the ranks of the items of one query after another, int32
# [policy, member, cutoff], 0 for items that are left out; the items' grades
# [member]; where each query's items begin [query]; and a depth. They return
# [policy, query, cutoff].


def _ndcg(ranks, grades, starts, k):
  ranks, left = _real(ranks)
  grades = np.where(left, 0, grades)
  hits = (ranks <= k) / np.log2(1 + np.minimum(ranks, k).astype(np.float64))
  gained = np.add.reduceat(hits * grades[None, :, None], starts, axis=1)
  query = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(grades)]))
  order = np.lexsort((-grades, query))
  place = np.arange(len(grades)) - starts[query] + 1
  best = np.where(place <= k, grades[order] / np.log2(1 + place), 0)
  return gained / np.add.reduceat(best, starts)[None, :, None]


def _mrr(ranks, grades, starts, k):
  first = np.minimum.reduceat(_real(ranks)[0], starts, axis=1)
  return np.where(first <= k, 1 / first, 0)


def _recall(ranks, grades, starts, k):
  return _overlap(ranks, np.zeros_like(grades), starts, k)


def _overlap(ranks, grades, starts, k):
  ranks, left = _real(ranks)
  mine = (grades <= k) & ~left
  both = (ranks <= k) & mine[None, :, None]
  hits = np.add.reduceat(both.astype(np.int64), starts, axis=1)
  return hits / np.maximum(np.add.reduceat(mine * 1, starts), 1)[None, :, None]


def _rbo(ranks, grades, starts, p):
  ranks, _ = _real(ranks)
  depth = int(grades.max())
  weights = p ** np.arange(depth)
  # An item that both hold by depth m counts at every depth from m on.
  tails = np.cumsum((weights / np.arange(1, depth + 1))[::-1])[::-1]
  table = np.concatenate([[0], tails, [0]]) / weights.sum()
  met = np.maximum(ranks, grades[None, :, None])
  gained = table[np.minimum(met, depth + 1).astype(np.int64)]
  return np.add.reduceat(gained, starts, axis=1)


def _real(ranks):
  """Puts items that are left out behind all others; says which they are."""
  return np.where(ranks > 0, ranks, _FAR), ranks[0, :, 0] == 0


_METRICS = {f.__name__[1:]: f for f in (_ndcg, _mrr, _recall, _overlap, _rbo)}


def _parse(name: str) -> Callable[..., np.ndarray]:
  """The function of a metric's name, but for 'mAP', which the sweep has."""
  kind, _, depth = name.partition('@')
  try:
    choices.check('metric', kind, (*_METRICS, 'mAP'))
    number = float(depth) if kind == 'rbo' else int(depth)
  except ValueError as error:
    raise ValueError(f'{name!r} is not a metric: {error}') from None
  if not (0 < number < 1 if kind == 'rbo' else number >= 1):
    raise ValueError(f'{name!r}: a depth is at least 1, a p between 0 and 1.')
  return lambda *arguments: _METRICS[kind](*arguments, number)


def neighbours(
  query: np.ndarray,
  gallery: np.ndarray,
  depth: int,
  *,
  distance: str = 'l2',
  query_ids: np.ndarray | None = None,
  gallery_ids: np.ndarray | None = None,
  block: int = 2**24,
) -> np.ndarray:
  """The nearest items of each query, nearest first, int [query, depth].

  Items with a query's id, an integer, are no neighbours of it. `block` scores
  are held at a time.

  Raises:
    ValueError: If the gallery holds fewer items than that.
  """
  room = len(gallery) - (query_ids is not None)
  if not 1 <= depth <= room:
    raise ValueError(f'depth={depth} neighbours of a gallery of {room} items.')
  score = inputs.scorer(gallery, distance)
  rows = max(1, block // len(gallery))
  best = []
  for start in range(0, len(query), rows):
    part = slice(start, start + rows)
    scores = score(query[part])
    if query_ids is not None:
      scores[query_ids[part][:, None] == gallery_ids[None]] = -np.inf
    kept = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    scores = np.take_along_axis(scores, kept, axis=1)
    order = np.argsort(-scores, axis=1, kind='stable')
    best.append(np.take_along_axis(kept, order, axis=1))
  return np.concatenate(best)
