"""What the exact sweep is given, checked and indexed before any counting."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fastfill_jax import choices

DISTANCES = ('l2', 'cosine')
_ROWS = 16_384  # Rows read at a time while checking.
_LONGEST = np.sqrt(np.finfo(np.float32).max / 4)


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
    sources: Column whose product each column takes, int [2 * gallery]: all
      columns are aligned before new.
    scale: float32 [2 * gallery].
    shift: float32 [2 * gallery].
    queries: Queries with a relevant item, those with most of them first.
    positives: Number of relevant items of each of `queries`.
    members: Gallery items by what they are relevant to: a label or a query.
    member_spans: Where a query's relevant items lie in `members`, [query, 2].
    twins: Gallery items sorted by id.
    twin_spans: Where a query's id lies in `twins`, [query, 2].
    buckets: First cut-off at which an item is new, int32 [policy, gallery].
    num_cutoffs: Number of different cut-offs.
  """

  query: Any
  states: tuple[Any, ...]
  sources: np.ndarray
  scale: np.ndarray
  shift: np.ndarray
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
  query, aligned, new, labels, orders, cutoffs, *, distance, ids, relevant=None
) -> Problem:
  """Checks the arguments of `curve.sweep` and indexes them.

  Reads every embedding once, in slices. `labels` and `ids` are pairs, of the
  queries and of the gallery; `relevant` lists pairs of a query and an item,
  [2, pair], in place of labels.

  Raises:
    ValueError: If something does not fit, naming it.
  """
  choices.check('distance', distance, DISTANCES)
  query, aligned, new = map(_array, (query, aligned, new))
  _check_embeddings(query, aligned, new)
  sizes = len(query), len(aligned)
  if (
    cutoffs.dtype.kind not in 'iu'
    or not cutoffs.size
    or (np.diff(cutoffs, prepend=-1, append=sizes[1] + 1) <= 0).any()
  ):
    raise ValueError(
      f'cutoffs must be increasing integers in [0, {sizes[1]}], got {cutoffs}.'
    )
  positions = _positions(orders, sizes[1])
  if relevant is None:
    labels = _codes('labels', labels, sizes)
    members, member_spans = _spans(*labels)
  else:
    members, member_spans = _listed(relevant, sizes)
  positives = np.diff(member_spans)[:, 0]
  twins, twin_spans = np.empty(0, np.int32), np.zeros((len(query), 2), int)
  if ids[0] is not None or ids[1] is not None:
    ids = _codes('ids', ids, sizes)
    twins, twin_spans = _spans(*ids)
    if relevant is None:
      pairs = (x * sum(sizes) + y for x, y in zip(labels, ids, strict=True))
      own = np.diff(_spans(*pairs)[1])[:, 0]
    else:
      same = ids[0][relevant[0]] == ids[1][relevant[1]]
      own = np.bincount(relevant[0][same], minlength=len(query))
    positives = positives - own
  queries = np.argsort(-positives, kind='stable')
  queries = queries[: np.count_nonzero(positives)]
  if not queries.size:
    raise ValueError('No query has a relevant item in the gallery.')
  _read('query', query)
  sources, scale, shift = _columns(aligned, new, distance)
  same = np.array_equal(*np.split(sources, 2))
  return Problem(
    query=query,
    states=(aligned,) if same else (aligned, new),
    sources=sources,
    scale=scale,
    shift=shift,
    queries=queries,
    positives=positives[queries],
    members=members,
    member_spans=member_spans,
    twins=twins,
    twin_spans=twin_spans,
    buckets=np.searchsorted(cutoffs, positions, 'right').astype(np.int32),
    num_cutoffs=len(cutoffs),
  )


def float32(array, rows) -> np.ndarray:
  """Reads rows (a slice or integers) of an array-like as float32."""
  with np.errstate(over='ignore'):  # Infinities are reported as such.
    return np.ascontiguousarray(array[rows], np.float32)


def scorer(gallery: Any, distance: str) -> Callable[[np.ndarray], np.ndarray]:
  """Scores of queries [query, embedding], float32, for all of a gallery.

  Of the order of a `Problem`'s, [query, gallery]; the gallery is held.
  """
  gallery = float32(gallery, slice(None))
  square = np.einsum('ge,ge->g', gallery, gallery)
  length = np.sqrt(np.where(square > 0, square, 1))

  def scores(query):
    scores = float32(query, slice(None)) @ gallery.T
    if distance == 'l2':
      scores -= square / 2
    else:
      scores /= length
    return scores

  return scores


def _array(array):
  """Keeps array-likes on disk; makes everything else a NumPy array."""
  lazy = hasattr(array, 'dtype') and not isinstance(array, jax.Array)
  return array if lazy else np.asarray(array)


def _check_embeddings(query, aligned, new):
  for name, array in (('query', query), ('aligned', aligned), ('new', new)):
    if len(array.shape) != 2 or 0 in array.shape:
      raise ValueError(
        f'{name} must be [rows, embedding], not empty, got {array.shape}.'
      )
    # NumPy does not count bfloat16 as a float; ml_dtypes has it as kind V.
    if array.dtype.kind not in 'fiu' and 'float' not in array.dtype.name:
      raise ValueError(f'{name} must hold real numbers, got {array.dtype}.')
  shapes = tuple(aligned.shape), tuple(new.shape)
  if shapes[0] != shapes[1] or query.shape[1] != shapes[1][1]:
    raise ValueError(
      'aligned and new must share the shape [gallery, embedding], query its '
      f'width; got {shapes[0]}, {shapes[1]} and {tuple(query.shape)}.'
    )


def _read(name: str, array) -> tuple[np.ndarray, np.ndarray]:
  """Returns every row's squared norm, float64, and its hash, int64."""
  squares, hashes = [], []
  for start in range(0, len(array), _ROWS):
    rows = float32(array, slice(start, start + _ROWS))
    wide = rows.astype(np.float64)
    squares.append(np.einsum('ij,ij->i', wide, wide))
    bad = np.flatnonzero(~(squares[-1] < _LONGEST**2))
    if bad.size:
      raise ValueError(
        f'{name}[{start + bad[0]}] is not finite or longer than '
        f'{_LONGEST:.2g}, where float32 scores overflow.'
      )
    # + 0 turns -0 into 0: they are equal, their bytes are not.
    rows = rows + np.float32(0)
    hashes.append(np.array([hash(row.tobytes()) for row in rows]))
  return np.concatenate(squares), np.concatenate(hashes)


def _columns(aligned, new, distance):
  """Returns sources, scale and shift of a `Problem`."""
  read = _read('aligned', aligned), _read('new', new)
  squares, hashes = map(np.concatenate, zip(*read, strict=True))
  _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
  sources = first[inverse].astype(np.int32)
  squares = squares[sources]
  if distance == 'l2':
    scale, shift = np.ones_like(squares), -squares / 2
  else:
    scale = 1 / np.sqrt(np.where(squares > 0, squares, 1))
    shift = np.zeros_like(squares)
  return sources, scale.astype(np.float32), shift.astype(np.float32)


def _codes(name, values, sizes):
  """Numbers the labels or ids of queries and gallery together."""
  arrays = []
  for side, given, rows in zip(
    ('query', 'gallery'), values, sizes, strict=True
  ):
    if given is None:
      raise ValueError(f'{side}_{name} is missing: give both sides or neither.')
    given = np.asarray(given)
    if given.dtype.kind == 'O':
      given = np.asarray(given.tolist())
    if given.shape != (rows,) or given.dtype.kind not in 'biuUST':
      raise ValueError(
        f'{side}_{name} must be integers or strings of the shape ({rows},), '
        f'got {given.dtype} {given.shape}.'
      )
    text = given.dtype.kind in 'UST'
    arrays.append(given if text else given.astype(np.int64))
  query, gallery = arrays
  if (query.dtype.kind == 'i') != (gallery.dtype.kind == 'i'):
    raise ValueError(
      f'query_{name} are {query.dtype}, gallery_{name} {gallery.dtype}: both '
      'must be integers or both strings.'
    )
  _, codes = np.unique(np.concatenate(arrays), return_inverse=True)
  return np.split(codes, [len(query)])


def _spans(query_codes, gallery_codes):
  """Sorts the gallery by code; returns it and where each query's code lies."""
  members = np.argsort(gallery_codes, kind='stable').astype(np.int32)
  codes = gallery_codes[members]
  first = np.searchsorted(codes, query_codes)
  last = np.searchsorted(codes, query_codes, 'right')
  return members, np.stack([first, last], axis=1)


def _listed(relevant, sizes):
  """Returns listed items by query, and where each query's lie."""
  if (
    relevant.ndim != 2 or len(relevant) != 2 or relevant.dtype.kind not in 'iu'
  ):
    raise ValueError(
      'relevant must be integers [2, pair] of queries and items, got '
      f'{relevant.dtype} {relevant.shape}.'
    )
  for side, rows, limit in zip(
    ('queries', 'items'), relevant, sizes, strict=True
  ):
    if rows.size and not 0 <= rows.min() <= rows.max() < limit:
      raise ValueError(f'relevant names {side} that are not in [0, {limit}).')
  query, item = relevant[:, np.lexsort(relevant[::-1])]
  twice = np.flatnonzero((np.diff(query) == 0) & (np.diff(item) == 0))
  if twice.size:
    first = twice[0]
    raise ValueError(
      f'relevant lists query {query[first]} with item {item[first]} twice.'
    )
  ends = np.searchsorted(query, np.arange(sizes[0] + 1))
  return item.astype(np.int32), np.stack([ends[:-1], ends[1:]], axis=1)


def _positions(orders, size):
  """Checks the orders; returns each item's position, int [policy, gallery]."""
  orders = np.asarray(orders)
  if orders.shape[1:] != (size,) or not len(orders):
    raise ValueError(
      f'orders must be [policy, gallery={size}], got {orders.shape}.'
    )
  if orders.dtype.kind not in 'iu':
    raise ValueError(f'orders must be integers, got {orders.dtype}.')
  positions = np.empty(orders.shape, np.int32)
  for policy, order in enumerate(orders):
    if not np.array_equal(np.sort(order), np.arange(size)):
      raise ValueError(
        f'orders[{policy}] is not a permutation of 0 .. {size - 1}: {order}.'
      )
    positions[policy, order] = np.arange(size)
  return positions
