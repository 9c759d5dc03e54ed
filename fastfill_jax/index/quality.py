"""How good an index is: its recall, and retrieval while it is backfilled."""

import itertools

import jax
import numpy as np

from fastfill_jax import metrics
from fastfill_jax.index import base, exact

_RECALL_QUERIES = 1000  # Evenly spaced, on which recall@k is measured.


def recall(index_ids, exact_ids) -> float:
  """Share of the true k nearest items that an index found: recall@k.

  Both are [query, k]. Of items equally far at the k-th place either search
  keeps any, so ties there count as misses.

  Raises:
    ValueError: If the shapes differ or are empty.
  """
  index_ids, exact_ids = np.asarray(index_ids), np.asarray(exact_ids)
  shapes = index_ids.shape, exact_ids.shape
  if shapes[0] != shapes[1] or index_ids.ndim != 2 or not index_ids.size:
    raise ValueError(f'Ids {shapes[0]} and {shapes[1]} are not [query, k].')
  found = exact_ids[:, :, None] == index_ids[:, None, :]
  return float(found.any(axis=2).mean())


def served_curve(
  index: base.Index,
  query,
  aligned,
  new,
  query_labels,
  gallery_labels,
  order,
  cutoffs,
  *,
  query_ids,
  gallery_ids,
  k: int = 100,
) -> dict[str, np.ndarray]:
  """Serves a gallery while it is backfilled: one order, live upserts.

  The index is built once, on the aligned gallery; from cut-off to cut-off the
  next items of the order are upserted, and it is rebalanced where it says that
  it should be. The exact areas of every policy are `curve.sweep`'s; this is
  what a deployed index returns meanwhile.

  AP@k is the sum of the tie-aware precisions at the relevant items among the
  first k, divided by min(k, number of relevant items in the gallery); with k
  the whole gallery it is `metrics.average_precision`. Queries without a
  relevant item are left out of every mean but that of the recall.

  Args:
    index: Any index; what it holds is replaced.
    query: New embeddings [query, embedding].
    aligned: [gallery, embedding].
    new: [gallery, embedding]; read as it is upserted.
    query_labels: [query].
    gallery_labels: [gallery].
    order: Permutation [gallery], first to be backfilled first.
    cutoffs: Ascending, in 0..gallery [cutoff].
    query_ids: [query]; gallery items with the query's id are left out.
    gallery_ids: [gallery].
    k: How many items are retrieved, at least 5.

  Returns:
    'mAP@<k>', 'cmc@1', 'cmc@5' and 'recall@<k>', against an exact search of
    the same mixed gallery, float64 [cutoff], and 'rebalanced', bool [cutoff].

  Raises:
    ValueError: If k is out of range, the order or the embeddings do not fit,
      or no query has a relevant item.
  """
  query, aligned = np.asarray(query[:]), np.asarray(aligned[:])
  size = len(aligned)
  labels = _codes(query_labels, gallery_labels)
  ids = _codes(query_ids, gallery_ids)
  # Gallery items that have a query's label and its id are not relevant.
  both = _codes(*(x * size + y for x, y in zip(labels, ids, strict=True)))
  num_relevant = _count(*labels) - _count(*both)
  if not num_relevant.any():
    raise ValueError('No query has a relevant item in the gallery.')
  most = size - _count(*ids).max()
  if k not in range(5, most + 1):
    raise ValueError(f'k={k} is not an integer from 5 to {most}.')
  if not np.array_equal(np.sort(order), np.arange(size)):
    raise ValueError(f'order is not a permutation of 0..{size - 1}: {order}.')

  sample = np.linspace(0, len(query) - 1, min(_RECALL_QUERIES, len(query)))
  sample = sample.astype(int)
  truth = exact.ExactIndex(index.distance)
  index.build(aligned)
  truth.build(aligned)
  values = []
  for start, cutoff in itertools.pairwise([0, *cutoffs]):
    rows = order[start:cutoff]
    written = new[rows]
    index.upsert(rows, written)
    truth.upsert(rows, written)
    rebalanced = index.rebalance()
    found, distances = _retrieve(index, query, ids, k)
    true, _ = _retrieve(truth, query[sample], (ids[0][sample], ids[1]), k)
    relevant = labels[1][found] == labels[0][:, None]
    means = _rank_metrics(distances, relevant, num_relevant)
    values.append([*means, recall(found[sample], true), rebalanced])
  names = f'mAP@{k}', 'cmc@1', 'cmc@5', f'recall@{k}', 'rebalanced'
  curves = dict(zip(names, np.array(values, np.float64).T, strict=True))
  return curves | {'rebalanced': curves['rebalanced'] > 0}


def _retrieve(index, query, ids, k):
  """The k nearest of each query, its own items left out."""
  found = index.search(query, k + int(_count(*ids).max()))
  own = ids[1][found[0]] == ids[0][:, None]
  kept = np.argsort(own, axis=1, kind='stable')[:, :k]
  return tuple(np.take_along_axis(x, kept, axis=1) for x in found)


def _rank_metrics(distances, relevant, num_relevant):
  """mAP@k, cmc@1 and cmc@5 over the queries with a relevant item."""
  counted = num_relevant > 0
  precision, *hits = (
    np.asarray(x, np.float64)[counted] for x in _per_query(-distances, relevant)
  )
  # Of the relevant items that were found, to all that could have been.
  possible = np.minimum(relevant.shape[1], num_relevant)[counted]
  precision *= relevant.sum(axis=1)[counted] / possible
  return precision.mean(), *(hit.mean() for hit in hits)


@jax.jit
@jax.vmap
def _per_query(scores, relevant):
  return (
    metrics.average_precision(scores, relevant),
    metrics.cmc(scores, relevant, 1),
    metrics.cmc(scores, relevant, 5),
  )


def _count(query, gallery):
  """How many gallery codes equal each query's, [query]."""
  size = max(query.max(), gallery.max()) + 1
  return np.bincount(gallery, minlength=size)[query]


def _codes(query, gallery):
  """Labels or ids as integers from 0, equal where they are equal."""
  _, codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)
  return np.split(codes, [len(query)])
