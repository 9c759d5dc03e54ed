"""What every store can do, and the words that all of them share.

A store holds items: an id, an old embedding, and what a backfill adds beside
it, a new embedding and its `space`, a tag that says what made it. Vector and
tag are written together, so the tag is the journal: whoever reads the tags
knows what is left to do. A tag is one of

  None                 nothing is in the new field yet
  'stale'              the item changed; its new embedding was taken away
  'aligned:DIGEST'     the old embedding, aligned by that alignment
  'new:DIGEST'         made by that new model

and whoever writes a new embedding must write its tag.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

STALE = 'stale'
DISTANCES = ('l2', 'cosine')


@dataclasses.dataclass(frozen=True)
class Names:
  """What a store's user calls things.

  Attributes:
    table: The table or collection.
    id: Its key.
    field: The embeddings that are searched; before the cut-over the old ones.
    revision: A field that changes with an item's content, if there is one.
  """

  table: str = 'items'
  id: str = 'id'
  field: str = 'embedding'
  revision: str | None = None

  @property
  def new(self) -> str:
    """The new embeddings' field before the cut-over."""
    return f'{self.field}_new'

  @property
  def old(self) -> str:
    """The old embeddings' field after the cut-over."""
    return f'{self.field}_old'

  @property
  def space(self) -> str:
    return f'{self.field}_space'


@dataclasses.dataclass(frozen=True)
class Description:
  """What a store is.

  Attributes:
    store: Its kind and version.
    old_dim: Width of the old field; None once it is dropped.
    new_dim: Width of the new field; None if there is none.
    serving: 'old' before the cut-over, 'new' after it.
    index: How the served field is indexed; None if not at all.
    warnings: What its user should know before a backfill.
  """

  store: str
  old_dim: int | None
  new_dim: int | None
  serving: str
  index: str | None = None
  warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Items:
  """Items as they were at one moment, in no particular order.

  Attributes:
    ids: [item] int64 or strings.
    spaces: [item] strings or None.
    revisions: [item] strings or None; another one means other content.
    vectors: float32 [item, embedding], NaN where there is none; or None.
  """

  ids: np.ndarray
  spaces: np.ndarray
  revisions: np.ndarray
  vectors: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, chosen) -> 'Items':
    vectors = None if self.vectors is None else self.vectors[chosen]
    return Items(
      self.ids[chosen], self.spaces[chosen], self.revisions[chosen], vectors
    )


class Store(abc.ABC):
  """A store that answers queries and takes writes while it is backfilled.

  What comes in is checked here, completely: a call that raises ValueError has
  written nothing. One thread at a time.
  """

  # Whether a search during a snapshot sees one moment.
  has_snapshots = False

  def __init__(self, names: Names):
    self.names = names

  def write(
    self,
    ids,
    vectors,
    space: str,
    *,
    only_if: str | None,
    revisions=None,
  ) -> np.ndarray:
    """Overwrites new embeddings and tags of items that are as expected.

    An item that is gone, whose tag is not `only_if` or whose revision is not
    the given one is left alone; nothing is ever inserted. The same call again
    writes nothing.

    Args:
      ids: [item], unique.
      vectors: [item, embedding], finite.
      space: The tag to write.
      only_if: The tag that an item must have; None: none.
      revisions: [item] strings that `read` returned, or None: any.

    Returns:
      The ids that were written, in the order given.

    Raises:
      ValueError: If anything does not fit the store.
    """
    ids, vectors = check_ids(ids), np.asarray(vectors)
    dim = self.describe().new_dim
    if dim is None:
      raise ValueError(f'{self.names.table} has no new field: prepare it.')
    if vectors.shape != (len(ids), dim) or vectors.dtype.kind not in 'fiu':
      raise ValueError(
        f'Vectors are {vectors.dtype} {vectors.shape}, not real numbers '
        f'[{len(ids)}, {dim}].'
      )
    if not space or space == only_if:
      raise ValueError(f'Tag {space!r} must not be empty or only_if itself.')
    vectors = vectors.astype(np.float32)
    good = np.isfinite(vectors).all(axis=1)
    if not good.all():
      raise ValueError(f'The vector of {ids[np.argmin(good)]!r} is not finite.')
    if not len(ids):
      return ids
    if revisions is not None:
      revisions = np.asarray(revisions, object)
      if revisions.shape != ids.shape:
        raise ValueError(f'{len(revisions)} revisions of {len(ids)} ids.')
      if not self.names.revision and all(r is None for r in revisions):
        revisions = None  # a store that has none
    return self._write(ids, vectors, space, only_if, revisions)

  @abc.abstractmethod
  def describe(self) -> Description:
    """What is there; cheap enough for every call."""

  @abc.abstractmethod
  def prepare(self, dim: int, distance: str, dry_run: bool = False) -> list:
    """Adds the new field, its tag and what guards them, unless they are there.

    Returns:
      What it did, or in a dry run would do, a line each.

    Raises:
      ValueError: If a new field of another width is there.
    """

  @abc.abstractmethod
  def scan(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields every item's id and tag, in pieces, ids [item], tags [item]."""

  @abc.abstractmethod
  def read(self, ids, field: str | None = 'new') -> Items:
    """The items of these ids that exist; field: 'old', 'new', None: neither."""

  @abc.abstractmethod
  def search(
    self, query, k: int, distance: str, exact: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """The nearest items by their new embedding.

    Args:
      query: [query, embedding].
      k: How many; there must be so many.
      distance: 'l2', squared, or 'cosine'.
      exact: Past the index.

    Returns:
      Ids and float distances [query, k], nearest first.
    """

  def counts(self) -> Mapping[str | None, int]:
    """How many items have which tag."""
    counts = {}
    for _, spaces in self.scan():
      for space in spaces.tolist():
        counts[space] = counts.get(space, 0) + 1
    return counts

  @contextlib.contextmanager
  def snapshot(self) -> Iterator['Store']:
    """A store of one moment, to read and search, if `has_snapshots`."""
    yield self

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Keeps other workers out, where a store can; writes are safe anyway."""
    yield

  def upkeep(self, distance: str, written: int | None = None) -> bool:
    """Keeps the index good.

    Args:
      distance: By which the index searches.
      written: Items written since the last upkeep: it is done only if due.
        None: it is.

    Returns:
      Whether anything was done.
    """
    del distance, written
    return False

  @abc.abstractmethod
  def cut_over(self):
    """Serves the new field under the old one's name, at once."""

  @abc.abstractmethod
  def roll_back(self):
    """Serves the old field again, at once."""

  @abc.abstractmethod
  def clean_up(self):
    """Drops the field that is not served, the tags and the guards."""

  def close(self):  # noqa: B027 (nothing to close is fine)
    """Lets go of connections."""

  @abc.abstractmethod
  def _write(self, ids, vectors, space, only_if, revisions): ...


def check_ids(ids) -> np.ndarray:
  """Ids [item] as int64 or strings; they must be unique."""
  ids = np.asarray(ids)
  if not ids.size:
    return ids.reshape(-1).astype(np.int64)
  if ids.dtype.kind == 'O' and all(isinstance(i, str) for i in ids.tolist()):
    ids = ids.astype(str)
  if ids.dtype.kind in 'iu':
    ids = ids.astype(np.int64)
  if ids.ndim != 1 or ids.dtype.kind not in 'iU':
    raise ValueError(
      f'Ids are {ids.dtype} {ids.shape}, not [item] integers or strings.'
    )
  if len(np.unique(ids)) < len(ids):
    raise ValueError('Ids must be unique.')
  return ids


def objects(values) -> np.ndarray:
  """An array [item] of Python objects: tags, revisions."""
  array = np.empty(len(values), object)
  array[:] = values
  return array


def choose_distance(distance: str) -> str:
  if distance not in DISTANCES:
    raise ValueError(
      f'Distance {distance!r} is none of {", ".join(DISTANCES)}.'
    )
  return distance
