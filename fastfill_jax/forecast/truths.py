"""What counts as found: labels, judgements, or agreement with the new model.

A sample is what a forecast is judged on: items embedded by both models,
queries, and one of three truths, as far as people hold it. All three run
through the one-pass sweep at every share of the backfill. In a thin sample a
query may have no relevant item: it is left out of all means but those of CMC,
where it is a miss, as it would be to its user.
"""

import dataclasses
import functools

import numpy as np

from fastfill_jax import curve
from fastfill_jax.curve import ranking

METRICS = {
  'labels': ('mAP', 'cmc@1', 'cmc@5'),
  'judgements': ('ndcg@10', 'mrr@10', 'recall@10', 'mAP'),
  'agreement': ('overlap@10', 'rbo@0.9'),
}
# Relevant items by label grow with the gallery, so that what it changes dies
# out. Measured on made-up clusters.
_FACTORS = {
  'labels': {'mAP': 0.65, 'cmc@1': 0.85, 'cmc@5': 0.75},
  'judgements': {'ndcg@10': 1.1},
  'agreement': {},
}
_DEPTH = 50  # Neighbours that agreement looks at; RBO's rest weighs 0.5%.


@dataclasses.dataclass(frozen=True)
class Sample:
  """Items and queries to judge on.

  Attributes:
    old: [item, old embedding].
    new: [item, new embedding].
    query_new: [query, new embedding].
    query_old: [query, old embedding], or None: then nothing is known about
      serving the old model.
    query_item: The item that a query is, int [query]; -1 for none. It is left
      out of the query's ranking.
    item_label: Integers or strings [item], or None.
    query_label: [query], or None.
    relevant: Pairs of a query and an item, int [2, pair], or None.
    grade: Of these pairs, positive [pair].
    distance: 'l2' or 'cosine'.
  """

  old: np.ndarray
  new: np.ndarray
  query_new: np.ndarray
  query_old: np.ndarray | None
  query_item: np.ndarray
  item_label: np.ndarray | None = None
  query_label: np.ndarray | None = None
  relevant: np.ndarray | None = None
  grade: np.ndarray | None = None
  distance: str = 'l2'

  @property
  def truth(self) -> str:
    """'labels', 'judgements' or 'agreement'."""
    if self.relevant is not None:
      return 'judgements'
    return 'agreement' if self.item_label is None else 'labels'

  @property
  def metrics(self) -> tuple[str, ...]:
    return METRICS[self.truth]

  @property
  def factors(self) -> np.ndarray:
    """How a doubling's change goes on to the next, see `bands` [metric]."""
    return np.array([_FACTORS[self.truth].get(x, 1.0) for x in self.metrics])

  def take(self, queries: np.ndarray, items: np.ndarray) -> 'Sample':
    """Some of the queries and some of the items."""
    number = np.full(len(self.old) + 1, -1)  # The last: of no item.
    number[items] = np.arange(len(items))
    held = {
      name: None if array is None else array[rows]
      for rows, names in (
        (items, ('old', 'new', 'item_label')),
        (queries, ('query_new', 'query_old', 'query_label')),
      )
      for name in names
      for array in [getattr(self, name)]
    }
    if self.relevant is not None:
      mine = np.full(len(self.query_new), -1)
      mine[queries] = np.arange(len(queries))
      pairs = np.stack([mine[self.relevant[0]], number[self.relevant[1]]])
      kept = (pairs >= 0).all(axis=0)
      held |= {'relevant': pairs[:, kept], 'grade': self.grade[kept]}
    return dataclasses.replace(
      self, query_item=number[self.query_item[queries]], **held
    )

  def halves(self, rng: np.random.Generator) -> list[tuple]:
    """Splits queries and items at random, as they were drawn together.

    A query that is an item goes where its item goes. An item with judgements
    goes where a query that it is judged for goes. All others go by themselves.

    Returns:
      (queries, items) of either half.
    """
    queries, items = len(self.query_new), len(self.old)
    of_query, of_item = _coins(queries, rng), _coins(items, rng)
    if self.relevant is not None:
      shuffled = rng.permutation(self.relevant.shape[1])
      query, item = self.relevant[:, shuffled]
      of_item[item] = of_query[query]
    is_item = self.query_item >= 0
    of_query[is_item] = of_item[self.query_item[is_item]]
    return [
      (np.flatnonzero(of_query == side), np.flatnonzero(of_item == side))
      for side in (False, True)
    ]

  @functools.cached_property
  def places(self) -> dict:
    """What a search takes beside embeddings: the distance, and ids."""
    places = {'distance': self.distance}
    if (self.query_item >= 0).any():
      places['gallery_ids'] = np.arange(len(self.old))
      # A query that is no item has an id that no item has.
      places['query_ids'] = np.where(
        self.query_item < 0, len(self.old), self.query_item
      )
    return places

  @functools.cached_property
  def listed(self) -> tuple[np.ndarray, np.ndarray]:
    """Relevant pairs and their grades: as judged, or the new neighbours."""
    if self.relevant is not None:
      return self.relevant, self.grade
    depth = min(_DEPTH, len(self.new) - 1)
    found = ranking.neighbours(self.query_new, self.new, depth, **self.places)
    query = np.repeat(np.arange(len(found)), depth)
    grade = np.tile(np.arange(1, depth + 1), len(found))
    return np.stack([query, found.ravel()]), grade


def _coins(size, rng):
  """As many True as False, give or take one, bool [size]."""
  return rng.permutation(size) % 2 == 0


def measure(
  sample: Sample,
  aligned: np.ndarray,
  orders: np.ndarray,
  shares: np.ndarray,
) -> np.ndarray:
  """Metrics of mixed galleries, searched by the new model.

  Args:
    sample: What to judge on.
    aligned: [item, new embedding].
    orders: First to be backfilled first, int [order, item].
    shares: Of the items, in [0, 1] [share].

  Returns:
    Means over queries, float64 [order, metric, share].
  """
  cutoffs = np.rint(np.asarray(shares) * len(sample.old)).astype(np.int64)
  distinct, place = np.unique(cutoffs, return_inverse=True)
  values = _sweep(
    sample, sample.query_new, aligned, sample.new, orders, distinct
  )
  return np.stack(
    [values[metric][:, place] for metric in sample.metrics], axis=1
  )


def measure_old(sample: Sample) -> np.ndarray | None:
  """Metrics of serving the old model, float64 [metric], if it is known."""
  if sample.query_old is None:
    return None
  order = np.arange(len(sample.old))[None]
  values = _sweep(
    sample,
    sample.query_old,
    sample.old,
    sample.old,
    order,
    np.zeros(1, np.int64),
  )
  return np.array([values[metric][0, 0] for metric in sample.metrics])


def _sweep(sample, query, aligned, new, orders, cutoffs):
  """{metric: mean over queries [order, cutoff]}."""
  if sample.truth == 'labels':
    values = curve.sweep(
      query,
      aligned,
      new,
      sample.query_label,
      sample.item_label,
      orders,
      cutoffs,
      backend='numba',
      **sample.places,
    )
    # A query without a relevant item has no precision, and no hit.
    counted = values['num_queries'] / len(query)
    for metric in sample.metrics:
      values[metric] *= counted if metric.startswith('cmc') else 1
    return values
  relevant, grade = sample.listed
  values = ranking.sweep(
    query,
    aligned,
    new,
    relevant,
    grade,
    orders,
    cutoffs,
    metrics=sample.metrics,
    **sample.places,
  )
  return {
    metric: np.nanmean(of_query, axis=-1, dtype=np.float64)
    for metric, of_query in values.items()
  }
