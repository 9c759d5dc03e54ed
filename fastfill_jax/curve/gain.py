"""What backfilling one item gains: the exact head-room of any order."""

import concurrent.futures
import os
from typing import Any

import numpy as np

from fastfill_jax import choices, parallel
from fastfill_jax.curve import inputs

_BLOCK = 64  # Queries whose scores are held at a time, by each thread.


def marginal(
  query: Any,
  aligned: Any,
  new: Any,
  query_labels: np.ndarray,
  gallery_labels: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  *,
  distance: str,
  seed: int,
  all_processes: bool = False,
) -> np.ndarray:
  """Each item's change in mAP when it alone is backfilled.

  The other items are in a random state, half of them backfilled, drawn anew
  for every query. Queries times gallery times its logarithm in time; both
  states of the gallery are held as float32.

  Args:
    query: New embeddings of the queries [query, embedding].
    aligned: Aligned embeddings of the gallery [gallery, embedding].
    new: What the items become [gallery, embedding].
    query_labels: Integers [query].
    gallery_labels: Integers [gallery]; an item of the query's is relevant.
    query_ids: Integers [query].
    gallery_ids: Integers [gallery]; an item of the query's id is left out.
    distance: 'l2' or 'cosine'.
    seed: Of the random states.
    all_processes: Whether every process is here, and counts its share.

  Returns:
    The mean over queries, float64 [gallery].
  """
  choices.check('distance', distance, inputs.DISTANCES)
  states = [inputs.scorer(x, distance) for x in (aligned, new)]

  def block(start):
    part = slice(start, start + _BLOCK)
    scores = [score(query[part]) for score in states]
    own = query_ids[part, None] == gallery_ids
    relevant = (query_labels[part, None] == gallery_labels) & ~own
    generator = np.random.default_rng((seed, start))
    total, count = np.zeros(len(gallery_ids)), 0
    for i in np.flatnonzero(relevant.any(axis=1)):
      kept = ~own[i]
      total[kept] += of_query(
        scores[0][i, kept],
        scores[1][i, kept],
        relevant[i, kept],
        generator.random(np.count_nonzero(kept)) < 0.5,
      )
      count += 1
    return total, count

  blocks = range(0, len(query), _BLOCK)
  if all_processes:
    blocks = blocks[parallel.process_index() :: parallel.process_count()]
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    done = [(np.zeros(len(gallery_ids)), 0), *pool.map(block, blocks)]
  total, count = (sum(x) for x in zip(*done, strict=True))
  if all_processes:
    total, count = (parallel.gather(x).sum(axis=0) for x in (total, count))
  return total / count


def of_query(
  aligned: np.ndarray,
  new: np.ndarray,
  relevant: np.ndarray,
  backfilled: np.ndarray,
) -> np.ndarray:
  """Change of one query's average precision as each item alone is backfilled.

  Args:
    aligned: Scores, larger is closer [gallery].
    new: Scores once backfilled [gallery].
    relevant: bool [gallery], at least one.
    backfilled: State of the others, bool [gallery].

  Returns:
    Precision with the item new less that with it aligned, [gallery].
  """
  now = np.where(backfilled, new, aligned)
  then = np.where(backfilled, aligned, new)
  order = np.argsort(-now, kind='stable')
  rank = np.arange(1, len(order) + 1)
  start = np.empty(len(order), int)
  start[order] = rank
  # Its rank in the other state, among the others as they are.
  closer = np.searchsorted(-now[order], -then, 'left')
  end = closer + 1 - (now > then)
  held = relevant[order]
  hits = np.concatenate([[0], np.cumsum(held)])  # Up to each rank.
  places = rank[held]

  def moved(by, others):
    """Sums, from the first hit on, of what hits lose as their rank shifts."""
    shifted = (hits[places] + others) / np.maximum(places + by, 1)
    change = shifted - hits[places] / places
    return np.concatenate([[0], np.cumsum(change)])

  # An item that rises pushes those between down a rank; one that falls lets
  # them rise. If it is relevant it counts among their hits, or no more.
  rises = end <= start
  first = hits[np.where(rises, end - 1, start)]
  last = hits[np.where(rises, start - 1, end)]

  def passed(items, lifted, pushed):
    sums = np.stack([lifted, pushed])
    way = rises[items].astype(int)
    return sums[way, last[items]] - sums[way, first[items]]

  change = passed(slice(None), moved(-1, 0), moved(1, 0))
  ours = np.flatnonzero(relevant)
  change[ours] = passed(ours, moved(-1, -1), moved(1, 1))
  here, there = start[ours], end[ours]
  found = hits[np.where(rises[ours], there - 1, there)] + rises[ours]
  change[ours] += found / there - hits[here] / here
  change /= len(ours)
  return np.where(backfilled, -change, change)
