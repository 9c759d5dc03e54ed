"""How good an index is: its recall, and retrieval while it is backfilled."""

import itertools

import jax
import numpy as np

from fastfill_jax import metrics
from fastfill_jax.index import base, exact

# Rows of the new embeddings that are checked at once.
_CHECKED_ROWS = 65_536


def recall(index_ids, exact_ids) -> float:
  """Share of the true k nearest items that an index found: recall@k.

  Args:
    index_ids: What the index found, [query, k].
    exact_ids: What an exact search found, [query, k]. Of items equally far at
      the k-th place either search keeps any, so ties there count as misses.

  Raises:
    ValueError: If the shapes differ or are empty.
  """
  index_ids, exact_ids = np.asarray(index_ids), np.asarray(exact_ids)
  if index_ids.shape != exact_ids.shape or index_ids.ndim != 2:
    raise ValueError(
      f'Ids {index_ids.shape} and {exact_ids.shape} are not both [query, k].'
    )
  if not exact_ids.size:
    raise ValueError(f'Ids {exact_ids.shape} are empty.')
  both = np.stack([index_ids, exact_ids])
  values, codes = np.unique(both, return_inverse=True)
  # A pair of query and id is one number.
  query = len(values) * np.arange(len(exact_ids))[:, None]
  found, true = codes.reshape(both.shape) + query
  return float(np.isin(true, found).mean())


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
  k: int = 100,
  query_ids=None,
  gallery_ids=None,
  recall_queries: int = 1000,
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
    aligned: Aligned old embeddings [gallery, embedding].
    new: New embeddings [gallery, embedding]; an array-like that integer arrays
      index is read as it is upserted.
    query_labels: [query].
    gallery_labels: [gallery].
    order: Permutation [gallery], first to be backfilled first.
    cutoffs: Ascending numbers of backfilled items [cutoff], in 0..gallery.
    k: How many items are retrieved, at least 5.
    query_ids: [query]; gallery items with the query's id are left out. None
      where query and gallery are apart.
    gallery_ids: [gallery], not necessarily unique.
    recall_queries: Queries, evenly spaced, on which recall@k is measured
      against an exact search of the same mixed gallery.

  Returns:
    'mAP@<k>', 'cmc@1', 'cmc@5' and 'recall@<k>', float64 [cutoff], and
    'rebalanced', bool [cutoff].

  Raises:
    ValueError: If anything does not fit together.
  """
  query, aligned = np.asarray(query[:]), np.asarray(aligned[:])
  _check_embeddings(query, aligned, new, index.distance)
  order, cutoffs = _check_path(order, cutoffs, len(aligned))
  sizes = len(query), len(aligned)
  labels = _codes('labels', query_labels, gallery_labels, sizes)
  if query_ids is None and gallery_ids is None:
    # No query's code is a gallery item's.
    ids = np.full(sizes[0], sizes[1]), np.arange(sizes[1])
  else:
    ids = _codes('ids', query_ids, gallery_ids, sizes)
  num_relevant = _count_relevant(labels, ids)
  _check_counts(k, recall_queries, sizes[1] - _count(*ids).max())

  sample = np.linspace(0, sizes[0] - 1, min(recall_queries, sizes[0]))
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
  query_ids, gallery_ids = ids
  extra = int(_count(query_ids, gallery_ids).max())
  rows, distances = index.search(query, k + extra)
  own = gallery_ids[rows] == query_ids[:, None]
  kept = np.argsort(own, axis=1, kind='stable')[:, :k]
  return (
    np.take_along_axis(rows, kept, axis=1),
    np.take_along_axis(distances, kept, axis=1),
  )


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


def _count_relevant(labels, ids):
  """How many gallery items have the query's label and not its id, [query]."""
  size = max(x.max() for x in ids) + 1
  pairs = [size * label + i for label, i in zip(labels, ids, strict=True)]
  _, codes = np.unique(np.concatenate(pairs), return_inverse=True)
  own = _count(*np.split(codes, [len(labels[0])]))
  relevant = _count(*labels) - own
  if not relevant.any():
    raise ValueError('No query has a relevant item in the gallery.')
  return relevant


def _codes(what, query, gallery, sizes):
  """Labels or ids as integers from 0, equal where they are equal."""
  pair = [np.asarray(query), np.asarray(gallery)]
  shapes = [x.shape for x in pair]
  if shapes != [(size,) for size in sizes]:
    raise ValueError(
      f'The {what} have shapes {shapes[0]} and {shapes[1]}; there are '
      f'{sizes[0]} queries and {sizes[1]} gallery items.'
    )
  _, codes = np.unique(np.concatenate(pair), return_inverse=True)
  return np.split(codes, [sizes[0]])


def _check_embeddings(query, aligned, new, distance):
  if not len(query) or not len(aligned):
    raise ValueError(
      f'There are {len(query)} queries and {len(aligned)} gallery items.'
    )
  if len(new) != len(aligned):
    raise ValueError(
      f'There are {len(aligned)} aligned and {len(new)} new embeddings.'
    )
  base.prepare('aligned', aligned, distance)
  base.prepare('query', query, distance, aligned.shape[1])
  for start in range(0, len(new), _CHECKED_ROWS):
    rows = np.arange(start, min(start + _CHECKED_ROWS, len(new)))
    base.prepare('new', new[rows], distance, aligned.shape[1])


def _check_counts(k, recall_queries, most):
  if k not in range(5, most + 1):
    raise ValueError(f'k={k} is not an integer from 5 to {most}.')
  if recall_queries < 1:
    raise ValueError(f'recall_queries={recall_queries} is not positive.')


def _check_path(order, cutoffs, n):
  order, cutoffs = np.asarray(order), np.asarray(cutoffs)
  for name, array in (('order', order), ('cutoffs', cutoffs)):
    if array.ndim != 1 or array.dtype.kind not in 'iu' or not len(array):
      raise ValueError(
        f'{name} is {array.dtype} {array.shape}, not integers [{name}].'
      )
  if not np.array_equal(np.sort(order), np.arange(n)):
    raise ValueError(f'order is not a permutation of 0..{n - 1}: {order}.')
  steps = np.diff(cutoffs, prepend=0, append=n)
  if (steps < 0).any():
    raise ValueError(f'cutoffs do not ascend within 0..{n}: {cutoffs}.')
  return order, cutoffs
