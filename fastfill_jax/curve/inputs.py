"""What the exact sweep is given, checked and indexed before any counting."""

import dataclasses
from typing import Any

import jax
import numpy as np

from fastfill_jax import choices

DISTANCES = ('l2', 'cosine')
_ROWS = 16_384  # Rows read at a time while checking.


@dataclasses.dataclass(frozen=True)
class Problem:
  """Everything both backends count with.

  The score of a gallery vector x for a query q is the float32 number
  dot(q, x) * scale[x] + shift[x], larger is closer:
    l2:      scale 1,       shift -|x|^2 / 2   (orders like -distance)
    cosine:  scale 1 / |x|, shift 0            (a zero vector scores 0)
  Vectors equal as float32 get one score, whichever item or state they belong
  to: matrix products may round equal columns differently, so that all take
  over the product of the first.

  Attributes:
    query: Array-like [query, embedding].
    states: Aligned and new, array-likes [gallery, embedding]; only aligned
      if both are equal.
    scale: float32 [2 * gallery], aligned before new, like all columns.
    shift: float32 [2 * gallery].
    sources: Column whose product each column takes [2 * gallery].
    queries: Queries with a relevant item, those with most of them first.
    positives: Number of relevant items of each of `queries`.
    members: Gallery items sorted by label.
    member_spans: Where a query's label lies in `members`, [query, 2].
    twins: Gallery items sorted by id.
    twin_spans: Where a query's id lies in `twins`, [query, 2].
    buckets: First cut-off at which an item is new, int32 [policy, gallery].
    num_cutoffs: Number of different cut-offs.
  """

  query: Any
  states: tuple[Any, ...]
  scale: np.ndarray
  shift: np.ndarray
  sources: np.ndarray
  queries: np.ndarray
  positives: np.ndarray
  members: np.ndarray
  member_spans: np.ndarray
  twins: np.ndarray
  twin_spans: np.ndarray
  buckets: np.ndarray
  num_cutoffs: int

  @property
  def gallery_size(self) -> int:
    return self.buckets.shape[1]


def prepare(
  query,
  aligned,
  new,
  query_labels,
  gallery_labels,
  orders,
  cutoffs,
  *,
  distance,
  query_ids,
  gallery_ids,
  relevant=None,
) -> Problem:
  """Checks the arguments of `curve.sweep` and indexes them.

  `cutoffs` must be increasing. Reads every embedding once, in slices.
  `relevant`, if given, lists pairs of a query and an item, [2, pair], in place
  of labels.

  Raises:
    ValueError: If something does not fit, naming it.
  """
  choices.check('distance', distance, DISTANCES)
  query, aligned, new = arrays = [_array(x) for x in (query, aligned, new)]
  _check_embeddings(*arrays)
  size = len(aligned)
  buckets = np.searchsorted(cutoffs, _positions(orders, size), side='right')
  if relevant is None:
    query_labels, gallery_labels = _codes(
      'labels', query_labels, gallery_labels, len(query), size
    )
    members, member_spans = _spans(query_labels, gallery_labels)
  else:
    members, member_spans = _listed(relevant, len(query), size)
  positives = member_spans[:, 1] - member_spans[:, 0]
  twins = np.empty(0, np.int32)
  twin_spans = np.zeros((len(query), 2), np.int64)
  if query_ids is not None or gallery_ids is not None:
    ids = _codes('ids', query_ids, gallery_ids, len(query), size)
    twins, twin_spans = _spans(*ids)
    owner, twin = _expand(twins, twin_spans)
    if relevant is None:
      alike = query_labels[owner] == gallery_labels[twin]
    else:
      pairs = np.asarray(relevant, np.int64)
      alike = np.isin(owner * size + twin, pairs[0] * size + pairs[1])
    positives = positives - np.bincount(owner[alike], minlength=len(query))
  queries = np.argsort(-positives, kind='stable')
  queries = queries[: np.count_nonzero(positives)]
  if not queries.size:
    raise ValueError('No query has a relevant item in the gallery.')
  _read('query', query)
  sources, scale, shift = _columns(aligned, new, distance)
  same = np.array_equal(sources[:size], sources[size:])
  return Problem(
    query=query,
    states=(aligned,) if same else (aligned, new),
    scale=scale,
    shift=shift,
    sources=sources,
    queries=queries,
    positives=positives[queries],
    members=members,
    member_spans=member_spans,
    twins=twins,
    twin_spans=twin_spans,
    buckets=buckets.astype(np.int32),
    num_cutoffs=len(cutoffs),
  )


def float32(array, rows) -> np.ndarray:
  """Reads rows (a slice or integers) of an array-like as float32."""
  with np.errstate(over='ignore'):  # Infinities are reported as such.
    return np.ascontiguousarray(array[rows], np.float32)


def _array(array):
  """Keeps array-likes on disk; makes everything else a NumPy array."""
  lazy = hasattr(array, 'shape') and hasattr(array, 'dtype')
  return (
    array if lazy and not isinstance(array, jax.Array) else np.asarray(array)
  )


def _check_embeddings(query, aligned, new):
  for name, array in (('query', query), ('aligned', aligned), ('new', new)):
    if len(array.shape) != 2 or 0 in array.shape:
      raise ValueError(
        f'{name} must be [rows, embedding], not empty, got {array.shape}.'
      )
    # NumPy does not count bfloat16 as a float; ml_dtypes has it as kind V.
    if array.dtype.kind not in 'fiu' and 'float' not in array.dtype.name:
      raise ValueError(f'{name} must hold real numbers, got {array.dtype}.')
  if tuple(aligned.shape) != tuple(new.shape):
    raise ValueError(
      'aligned and new must share the shape [gallery, embedding], got '
      f'{aligned.shape} and {new.shape}.'
    )
  if query.shape[1] != new.shape[1]:
    raise ValueError(
      f'query has {query.shape[1]} coordinates, the gallery {new.shape[1]}.'
    )


def _read(name: str, array) -> tuple[np.ndarray, np.ndarray]:
  """Returns every row's squared norm, float64, and its hash, int64."""
  squares, hashes = [], []
  limit = np.sqrt(np.finfo(np.float32).max / 4)
  for start in range(0, len(array), _ROWS):
    rows = float32(array, slice(start, start + _ROWS))
    wide = rows.astype(np.float64)
    squares.append(np.einsum('ij,ij->i', wide, wide))
    bad = np.flatnonzero(~(squares[-1] < limit**2))
    if bad.size:
      raise ValueError(
        f'{name}[{start + bad[0]}] is not finite or longer than {limit:.2g}, '
        'where float32 scores overflow.'
      )
    # + 0 turns -0 into 0: they are equal, their bytes are not.
    rows = rows + np.float32(0)
    hashes.append(np.array([hash(row.tobytes()) for row in rows]))
  return np.concatenate(squares), np.concatenate(hashes)


def _columns(aligned, new, distance):
  """Returns sources, scale and shift of a `Problem`."""
  squares, hashes = map(
    np.concatenate,
    zip(_read('aligned', aligned), _read('new', new), strict=True),
  )
  _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
  sources = first[inverse].astype(np.int32)
  squares = squares[sources]
  if distance == 'l2':
    scale, shift = np.ones_like(squares), -squares / 2
  else:
    scale = 1 / np.sqrt(np.where(squares > 0, squares, 1))
    shift = np.zeros_like(squares)
  return sources, scale.astype(np.float32), shift.astype(np.float32)


def _codes(name, query, gallery, queries, size):
  """Numbers the labels or ids of queries and gallery together."""
  arrays = []
  for side, values, rows in (
    ('query', query, queries),
    ('gallery', gallery, size),
  ):
    if values is None:
      raise ValueError(f'{side}_{name} is missing: give both sides or neither.')
    values = np.asarray(values)
    if values.dtype.kind == 'O':
      values = np.asarray(values.tolist())
    if values.shape != (rows,):
      raise ValueError(
        f'{side}_{name} must have the shape ({rows},), got {values.shape}.'
      )
    if values.dtype.kind not in 'biuUST':
      raise ValueError(
        f'{side}_{name} must be integers or strings, got {values.dtype}.'
      )
    text = values.dtype.kind in 'UST'
    arrays.append(values if text else values.astype(np.int64))
  if len({array.dtype.kind == 'i' for array in arrays}) == 2:
    raise ValueError(
      f'query_{name} are {arrays[0].dtype}, gallery_{name} {arrays[1].dtype}: '
      'both must be integers or both strings.'
    )
  _, codes = np.unique(np.concatenate(arrays), return_inverse=True)
  return codes[:queries], codes[queries:]


def _spans(query_codes, gallery_codes):
  """Sorts the gallery by code; returns it and where each query's code lies."""
  members = np.argsort(gallery_codes, kind='stable').astype(np.int32)
  codes = gallery_codes[members]
  sides = [
    np.searchsorted(codes, query_codes, side) for side in ('left', 'right')
  ]
  return members, np.stack(sides, axis=1)


def _listed(relevant, queries, size):
  """Returns listed items by query, and where each query's lie."""
  pairs = np.asarray(relevant)
  if pairs.ndim != 2 or len(pairs) != 2 or pairs.dtype.kind not in 'iu':
    raise ValueError(
      'relevant must be integers [2, pair] of queries and items, got '
      f'{pairs.dtype} {pairs.shape}.'
    )
  for side, rows, limit in zip(
    ('queries', 'items'), pairs, (queries, size), strict=True
  ):
    if rows.size and not 0 <= rows.min() <= rows.max() < limit:
      raise ValueError(f'relevant names {side} that are not in [0, {limit}).')
  codes = pairs[0].astype(np.int64) * size + pairs[1]
  codes, counts = np.unique(codes, return_counts=True)
  if codes.size and counts.max() > 1:
    query, item = divmod(int(codes[counts.argmax()]), size)
    raise ValueError(f'relevant lists query {query} with item {item} twice.')
  ends = np.searchsorted(codes, np.arange(queries + 1) * size)
  return (codes % size).astype(np.int32), np.stack([ends[:-1], ends[1:]], 1)


def _expand(members, spans):
  """Lists all pairs of a span's number and a member in it."""
  sizes = spans[:, 1] - spans[:, 0]
  owner = np.repeat(np.arange(len(spans)), sizes)
  offset = np.arange(owner.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return owner, members[spans[owner, 0] + offset]


def _positions(orders, size):
  """Checks the orders; returns each item's position, [policy, gallery]."""
  orders = np.asarray(orders)
  if orders.ndim != 2 or orders.shape[1] != size or not len(orders):
    raise ValueError(
      f'orders must be [policy, gallery={size}], got {orders.shape}.'
    )
  if orders.dtype.kind not in 'iu':
    raise ValueError(f'orders must be integers, got {orders.dtype}.')
  positions = np.empty(orders.shape, np.int32)
  for policy, order in enumerate(orders):
    outside = order[(order < 0) | (order >= size)]
    if outside.size:
      raise ValueError(
        f'orders[{policy}] holds {outside[0]}, which is not in [0, {size}).'
      )
    count = np.bincount(order, minlength=size)
    if count.max() > 1:
      raise ValueError(
        f'orders[{policy}] is not a permutation: it holds {count.argmax()} '
        f'{count.max()} times and {count.argmin()} never.'
      )
    positions[policy, order] = np.arange(size)
  return positions
