"""What every index shares: ids, and the validation of what comes in."""

import abc

import numpy as np

from fastfill_jax import choices

DISTANCES = ('l2', 'cosine')
# Longer vectors overflow float32 once their distances are summed.
_MAX_SQUARED_NORM = 1e36


def check_ids(ids, count: int) -> np.ndarray:
  """Returns ids [count] as int64 or strings; they must be unique."""
  ids = np.asarray(ids)
  if ids.shape != (count,):
    raise ValueError(f'Ids have shape {ids.shape}, expected ({count},).')
  if ids.dtype.kind == 'O' and all(isinstance(i, str) for i in ids):
    ids = ids.astype(str)
  if ids.dtype.kind in 'iu' and np.can_cast(ids.dtype, np.int64):
    ids = ids.astype(np.int64)
  elif ids.dtype.kind != 'U' and count:
    raise ValueError(f'Ids are {ids.dtype}, not 64-bit integers or strings.')
  values, counts = np.unique(ids, return_counts=True)
  if len(values) < count:
    twice = values[counts > 1][0]
    raise ValueError(f'Ids must be unique, {twice.item()!r} is not.')
  return ids


def prepare(
  name: str, embeddings, distance: str, dim: int | None = None
) -> np.ndarray:
  """Returns embeddings as every backend takes them, a copy.

  Args:
    name: What errors call them.
    embeddings: Real numbers [row, embedding].
    distance: For 'cosine' they come back at length 1.
    dim: The width that is expected, if one is.

  Returns:
    float32 [row, embedding].

  Raises:
    ValueError: If they are anything else, or not finite, or so long that
      their distances overflow.
  """
  embeddings = np.asarray(embeddings)
  # 'V' is how NumPy sees bfloat16.
  if embeddings.ndim != 2 or embeddings.dtype.kind not in 'fiuV':
    raise ValueError(
      f'{name}: {embeddings.dtype} {embeddings.shape} are not real numbers '
      '[row, embedding].'
    )
  if dim is not None and embeddings.shape[1] != dim:
    raise ValueError(
      f'{name}: dimension {embeddings.shape[1]} is not that of the gallery, '
      f'{dim}.'
    )
  with np.errstate(over='ignore', invalid='ignore'):
    embeddings = embeddings.astype(np.float32, order='C')
    squared_norm = np.einsum('nd,nd->n', embeddings, embeddings)
  good = squared_norm < _MAX_SQUARED_NORM
  if distance == 'cosine':
    good &= squared_norm > 0
  if not good.all():
    row = int(np.argmin(good))
    raise ValueError(
      f'{name}: row {row} has squared length {squared_norm[row]}; it must be '
      f'finite, below {_MAX_SQUARED_NORM:g}, and not 0 for cosine.'
    )
  if distance == 'cosine':
    embeddings /= np.sqrt(squared_norm)[:, None]
  return embeddings


class Index(abc.ABC):
  """A gallery of embeddings by id.

  Ids are integers or strings; inside they are rows, in order of arrival. What
  comes in is checked here, completely, so that a backend never sees an upsert
  that it could not finish: a call that raises leaves the index as it was.

  Args:
    distance: 'l2' or 'cosine'.
  """

  def __init__(self, distance: str = 'l2'):
    self.distance = choices.check('distance', distance, DISTANCES)
    self._ids = np.arange(0)
    self._row_of = {}
    self._dim = 0

  def __len__(self) -> int:
    return len(self._row_of)

  def build(self, embeddings, ids=None):
    """Fills the index anew; without ids items are numbered from 0."""
    embeddings = prepare('embeddings', embeddings, self.distance)
    if not embeddings.size:
      raise ValueError(f'Embeddings {embeddings.shape} are empty.')
    n, dim = embeddings.shape
    ids = np.arange(n) if ids is None else check_ids(ids, n)
    self._build(embeddings)
    self._dim, self._ids = dim, ids
    self._row_of = {i: row for row, i in enumerate(ids.tolist())}

  def search(self, query, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest gallery items of each query, nearest first.

    Returns:
      Ids [query, k] and float32 distances [query, k].

    Raises:
      ValueError: If the query or k does not fit the gallery.
    """
    query = self._fit('query', query)
    if k not in range(1, len(self) + 1):
      raise ValueError(f'k={k} is not an integer from 1 to {len(self)}.')
    if not len(query):
      # ScaNN fails on an empty batch.
      return self._ids[np.zeros((0, k), int)], np.zeros((0, k), np.float32)
    rows, distances = self._search(query, k)
    return self._ids[rows], distances

  def upsert(self, ids, embeddings):
    """Overwrites the embeddings of known ids, adds those of new ones.

    Raises:
      ValueError: If anything does not fit; nothing is written then.
    """
    embeddings = self._fit('embeddings', embeddings)
    ids = check_ids(ids, len(embeddings))
    if not len(ids):
      return
    if ids.dtype.kind != self._ids.dtype.kind:
      raise ValueError(
        f'Ids are {ids.dtype}, those of the gallery {self._ids.dtype}.'
      )
    rows = np.array([self._row_of.get(i, -1) for i in ids.tolist()])
    added = rows < 0
    rows[added] = len(self) + np.arange(added.sum())
    self._write(rows, embeddings)
    if added.any():
      self._ids = np.concatenate([self._ids, ids[added]])
      self._row_of.update(
        zip(ids[added].tolist(), rows[added].tolist(), strict=True)
      )

  def rebalance(self) -> bool:
    """Trains the index anew if upserts have made it stale; whether it did."""
    return False

  @abc.abstractmethod
  def _build(self, embeddings): ...

  @abc.abstractmethod
  def _search(self, query, k): ...

  @abc.abstractmethod
  def _write(self, rows, embeddings): ...

  def _fit(self, name, embeddings):
    if not len(self):
      raise ValueError('The index is empty: build it first.')
    return prepare(name, embeddings, self.distance, self._dim)
