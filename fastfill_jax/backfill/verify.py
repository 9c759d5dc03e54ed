"""Whether a store holds what its tags say, and its search finds it."""

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import census, plan

_PIECE = 1000
_TOLERANCE = 2e-3  # half precision
_QUERIES, _NEIGHBOURS = 20, 10
_LEAST_RECALL = 0.9


def check(
  store: stores.Store,
  plan: plan.Plan,
  sample: int,
  embedder=None,
  seed: int = 0,
) -> list[dict]:
  """Looks at one moment of a store, where it has snapshots.

  Args:
    store: To look at.
    plan: Of its backfill.
    sample: How many items to read.
    embedder: An `embedders.Embedder` that makes some new embeddings again.
    seed: Of the sample.

  Returns:
    {'check', 'good', 'detail'} each.
  """
  rng = np.random.default_rng(seed)
  with store.snapshot() as view:
    found = census.Census(view, plan)
    return [
      _tags(found, plan),
      _complete(found),
      _aligned(view, plan, found, sample, rng),
      _search(view, plan, found, rng),
      *([_new(view, plan, found, embedder, rng)] if embedder else []),
    ]


def _line(check, good, detail):
  return {'check': check, 'good': bool(good), 'detail': detail}


def _tags(found, plan):
  try:
    found.refuse_strange(plan)
  except ValueError as error:
    return _line('tags', False, str(error))
  return _line('tags', True, f'{found.total:,} items, all tags known')


def _complete(found):
  missing = found.counts.get(None, 0) + found.counts.get(stores.STALE, 0)
  return _line('in the new space', not missing, f'{missing:,} items are not')


def _chosen(states, wanted, n, rng):
  rows = np.flatnonzero(states == wanted)
  return rng.permutation(rows)[:n]


def _aligned(view, plan, found, sample, rng):
  """Aligned items hold the plan's embeddings."""
  rows, wrong = _chosen(found.states, census.ALIGNED, sample, rng), []
  for start in range(0, len(rows), _PIECE):
    part = rows[start : start + _PIECE]
    items = view.read(plan.ids[part])
    expected = plan.aligned[plan.rows(items.ids)]
    bad = _differs(items.vectors, expected, plan.distance)
    bad &= items.spaces == plan.aligned_space
    wrong += items.ids[bad].tolist()
  detail = f'{len(wrong):,} of {len(rows):,} differ from the plan'
  return _line('aligned', not wrong, detail + _some(wrong))


def _new(view, plan, found, embedder, rng):
  """New items hold what the embedder makes of them now."""
  rows = _chosen(found.states, census.NEW, _QUERIES, rng)
  answer = embedder(plan.ids[rows])
  items = view.read(np.array(answer.ids, plan.ids.dtype))
  place = {i: n for n, i in enumerate(answer.ids)}
  order = [place[i] for i in items.ids.tolist()]
  made = np.array(answer.vectors).reshape(-1, plan.new_dim)[order]
  bad = _differs(items.vectors, made, plan.distance)
  wrong = items.ids[bad].tolist()
  detail = f'{len(wrong):,} of {len(items):,} differ when embedded again'
  return _line('new', not wrong, detail + _some(wrong))


def _differs(stored, expected, distance):
  """Which rows [item] are not equal, up to half precision; NaN is not."""
  if distance == 'cosine':  # some stores normalise
    stored, expected = (
      x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
      for x in (stored, expected)
    )
  error = np.linalg.norm(stored - expected, axis=1)
  return ~(error <= _TOLERANCE * (np.linalg.norm(expected, axis=1) + 1e-30))


def _some(wrong):
  return f', {wrong[0]!r} for one' if wrong else ''


def _search(view, plan, found, rng):
  """The index finds what an exact search finds."""
  there = np.isin(found.states, [census.ALIGNED, census.NEW])
  rows = _chosen(there, True, _QUERIES, rng)
  k = min(_NEIGHBOURS, int(there.sum()))
  if not k:
    return _line('search', False, 'nothing to find')
  query = view.read(plan.ids[rows]).vectors
  ids, _ = view.search(query, k, plan.distance)
  exact, distances = view.search(query, k, plan.distance, exact=True)
  recall = np.mean(
    [np.isin(a, b).mean() for a, b in zip(exact, ids, strict=True)]
  )
  near = distances[:, 0] <= _TOLERANCE * (1 + (query**2).sum(axis=1))
  return _line(
    'search',
    recall >= _LEAST_RECALL and near.all(),
    f'recall@{k} {recall:.3f}; {int(near.sum())} of {len(rows)} items find '
    'themselves',
  )
