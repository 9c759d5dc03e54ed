"""Our own store: arrays on disk and a log of what was written to them.

DIR/id and DIR/old are shards that are there from the start. Every write is a
file DIR/log/NUMBER.npz, renamed into place, so it is there whole or not at
all; the state of the store is its files read in order, and a version is how
far one has read. A full copy of the state replaces the log now and then.
`follow` keeps any index of `fastfill_jax.index`, ScaNN's for one, at the
store's state.
"""

import contextlib
import copy
import fcntl
import os
import pathlib
import shutil

import numpy as np

from fastfill_jax import embeddings
from fastfill_jax.stores import base

# Files of the log before the state is written anew.
_LOG_LENGTH = 256
_PIECE = 65_536


class ArraysStore(base.Store):
  """A folder of arrays; state and search are in memory.

  Args:
    directory: With id/ and old/, see `embeddings.ShardedArray`.
    names: Not used: a folder is one table.

  Raises:
    ValueError: If the arrays are not there or do not fit each other.
  """

  has_snapshots = True

  def __init__(self, directory, names: base.Names | None = None):
    super().__init__(names or base.Names())
    self._directory = pathlib.Path(directory)
    self._log = self._directory / 'log'
    ids = base.check_ids(embeddings.ShardedArray(self._directory / 'id')[:])
    self._old = None
    if (self._directory / 'old').exists():
      self._old = embeddings.ShardedArray(self._directory / 'old')
      if len(self._old) != len(ids) or self._old.ndim != 2:
        raise ValueError(f'old {self._old.shape} does not fit {len(ids)} ids.')
    self._reset(ids)
    self._refresh()

  def _reset(self, ids):
    n = len(ids)
    self._version, self._deleted_at = 0, 0
    self._serving, self._dropped = 'old', False
    self._ids = ids
    self._row_of = {i: row for row, i in enumerate(ids.tolist())}
    self._alive = np.ones(n, bool)
    self._changed = np.zeros(n, np.int64)
    self._revision = np.zeros(n, np.int64)
    self._space = base.objects([None] * n)
    self._new = None
    # Old embeddings that were written later than the shards.
    self._later_old = {}
    self._index, self._index_version = None, -1
    self._frozen = False

  # What a Store can do.

  def describe(self):
    self._refresh()
    return base.Description(
      store=f'arrays, version {self._version}',
      old_dim=None if self._old is None else self._old.shape[1],
      new_dim=None if self._new is None else self._new.shape[1],
      serving=self._serving,
    )

  def prepare(self, dim, distance, dry_run=False):
    base.choose_distance(distance)
    there = self.describe().new_dim
    if there is not None:
      if there != dim:
        raise ValueError(f'The new field is {there} wide, the plan {dim}.')
      return []
    if not dry_run:
      self._append({'op': 'prepare', 'dim': dim})
    return [f'add a new field of {dim}']

  def scan(self):
    self._refresh()
    rows = np.flatnonzero(self._alive)
    for start in range(0, len(rows), _PIECE):
      piece = rows[start : start + _PIECE]
      yield self._ids[piece], self._space[piece]

  def read(self, ids, field='new'):
    self._refresh()
    rows = self._rows(base.check_ids(ids))
    rows = rows[rows >= 0]
    vectors = None
    if field == 'new':
      vectors = self._new[rows]
    elif field == 'old':
      vectors = self._read_old(rows)
    return base.Items(
      self._ids[rows],
      self._space[rows],
      base.objects([str(r) for r in self._revision[rows]]),
      vectors,
    )

  def search(self, query, k, distance, exact=False):
    del exact  # always
    from fastfill_jax import index

    if self._index is None or self._index.distance != distance:
      self._index, self._index_version = index.ExactIndex(distance), -1
    self._index_version = self.follow(self._index, self._index_version)
    return self._index.search(query, k)

  def follow(self, index, version: int = -1) -> int:
    """Brings an index to the store's state, by the least work.

    Args:
      index: A `fastfill_jax.index.Index`.
      version: What the last call returned; -1: the index is empty.

    Returns:
      The version that the index now shows.
    """
    self._refresh()
    shown = self._alive & ~np.isin(self._space, [None, base.STALE])
    if version < self._deleted_at:
      rows = np.flatnonzero(shown)
      index.build(self._new[rows], self._ids[rows])
    elif version < self._version:
      rows = np.flatnonzero(shown & (self._changed > version))
      index.upsert(self._ids[rows], self._new[rows])
    return self._version

  @contextlib.contextmanager
  def snapshot(self):
    self._refresh()
    frozen = copy.copy(self)
    for name in ('_alive', '_changed', '_revision', '_space', '_new'):
      setattr(frozen, name, copy.copy(getattr(self, name)))
    frozen._row_of, frozen._later_old = (
      dict(self._row_of),
      dict(self._later_old),
    )
    frozen._index, frozen._frozen = None, True
    yield frozen

  def upkeep(self, distance, written=None):
    if written is not None and len(list(self._log.glob('*'))) < _LOG_LENGTH:
      return False
    with self._locked():
      self._refresh()
      self._put(self._state())
      for path in sorted(self._log.glob('*.npz'))[:-1]:
        path.unlink()
    return True

  def cut_over(self):
    if self.describe().new_dim is None:
      raise ValueError('There is no new field to serve.')
    self._append({'op': 'serve', 'field': 'new'})

  def roll_back(self):
    if self._old is None:
      raise ValueError('The old field is gone.')
    self._append({'op': 'serve', 'field': 'old'})

  def clean_up(self):
    if self.describe().serving == 'old':
      self._append({'op': 'drop'})
      return
    shutil.rmtree(self._directory / 'old', ignore_errors=True)
    self._old = None

  # What the application does: the old pipeline, or anyone.

  def put(self, ids, old):
    """Inserts items or changes them, as the old pipeline would."""
    old = np.asarray(old, np.float32)
    self._append({'op': 'put', 'ids': base.check_ids(ids), 'old': old})

  def delete(self, ids):
    """Deletes items."""
    self._append({'op': 'delete', 'ids': base.check_ids(ids)})

  # The log.

  def _write(self, ids, vectors, space, only_if, revisions):
    with self._locked():
      self._refresh()
      rows = self._rows(ids)
      good = (rows >= 0) & (self._space[rows] == only_if)
      if revisions is not None:
        good &= self._revision[rows].astype(str) == revisions.astype(str)
      if good.any():
        self._put(
          {
            'op': 'write',
            'ids': ids[good],
            'new': vectors[good],
            'space': space,
          }
        )
    return ids[good]

  def _append(self, entry):
    with self._locked():
      self._refresh()
      self._put(entry)

  @contextlib.contextmanager
  def _locked(self):
    if self._frozen:
      raise ValueError('A snapshot takes no writes.')
    self._log.mkdir(exist_ok=True)
    with open(self._directory / 'lock', 'w') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield

  def _put(self, entry):
    """Writes the next file of the log; the caller holds the lock."""
    path = self._log / f'{self._version + 1:010d}.npz'
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file:
      np.savez(file, **entry)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
    self._refresh()

  def _refresh(self):
    """Reads what was written since, by this process or another."""
    if self._frozen or not self._log.exists():
      return
    for _ in range(100):
      try:
        for path in sorted(self._log.glob('*.npz')):
          version = int(path.stem)
          if version > self._version:
            with np.load(path, allow_pickle=False) as entry:
              self._apply(version, dict(entry))
            self._version = version
        return
      except FileNotFoundError:
        continue  # replaced by a full copy of the state, which is read next
    raise ValueError(f'{self._log} lacks files.')

  def _apply(self, version, entry):
    op = str(entry['op'])
    if op == 'state':
      self._restore(entry)
    elif version != self._version + 1:
      # This file's predecessors were replaced by a full copy after the files
      # were listed: list them again.
      raise FileNotFoundError
    elif op == 'prepare':
      self._new = np.full((len(self._ids), int(entry['dim'])), np.nan, 'f4')
    elif op == 'write':
      rows = self._rows(entry['ids'])
      self._new[rows], self._space[rows] = entry['new'], str(entry['space'])
      self._changed[rows] = version
    elif op == 'serve':
      self._serving = str(entry['field'])
    elif op == 'drop':
      self._new, self._space[:] = None, None
    elif op == 'delete':
      rows = self._rows(entry['ids'])
      self._alive[rows[rows >= 0]] = False
      self._deleted_at = version
    elif op == 'put':
      self._apply_put(version, entry['ids'], entry['old'])

  def _apply_put(self, version, ids, old):
    missing = [i for i in ids.tolist() if i not in self._row_of]
    if missing:
      self._grow(np.array(missing, ids.dtype))
    rows = np.array([self._row_of[i] for i in ids.tolist()], np.int64)
    # A changed item loses its tag to 'stale', one that came back has none.
    known = self._alive[rows] & (np.isin(ids, missing, invert=True))
    self._space[rows] = np.where(known, base.STALE, None)
    if self._new is not None:
      self._new[rows] = np.nan
    self._alive[rows] = True
    self._revision[rows] += 1
    self._deleted_at = version  # they are no longer to be found
    self._later_old.update(zip(rows.tolist(), old, strict=True))

  def _grow(self, ids):
    n, m = len(self._ids), len(ids)
    self._row_of.update({i: n + j for j, i in enumerate(ids.tolist())})
    self._ids = np.concatenate([self._ids, ids])
    self._alive = np.pad(self._alive, (0, m), constant_values=True)
    self._changed = np.pad(self._changed, (0, m))
    self._revision = np.pad(self._revision, (0, m))
    self._space = np.concatenate([self._space, base.objects([None] * m)])
    if self._new is not None:
      pad = ((0, m), (0, 0))
      self._new = np.pad(self._new, pad, constant_values=np.nan)

  def _state(self):
    later = np.array(sorted(self._later_old), np.int64)
    return {
      'op': 'state',
      'ids': self._ids,
      'alive': self._alive,
      'changed': self._changed,
      'deleted_at': self._deleted_at,
      'revision': self._revision,
      'space': np.array([s or '' for s in self._space], str),
      'new': np.zeros((0, 0)) if self._new is None else self._new,
      'serving': self._serving,
      'later': later,
      'later_old': np.array([self._later_old[r] for r in later.tolist()]),
    }

  def _restore(self, entry):
    self._ids = entry['ids']
    self._row_of = {i: row for row, i in enumerate(self._ids.tolist())}
    self._alive, self._changed = entry['alive'], entry['changed']
    self._deleted_at = int(entry['deleted_at'])
    self._revision, self._serving = entry['revision'], str(entry['serving'])
    self._space = base.objects([s or None for s in entry['space'].tolist()])
    self._new = entry['new'] if entry['new'].shape[1] else None
    later = entry['later'].tolist()
    self._later_old = dict(zip(later, entry['later_old'], strict=True))

  def _rows(self, ids):
    """Rows [item] of ids, -1 for what is not there."""
    rows = np.array([self._row_of.get(i, -1) for i in ids.tolist()], np.int64)
    return np.where((rows >= 0) & self._alive[rows], rows, -1)

  def _read_old(self, rows):
    dim = self._old.shape[1] if self._old is not None else 0
    vectors = np.full((len(rows), dim), np.nan, np.float32)
    shards = len(self._old) if self._old is not None else 0
    first = rows < shards
    if first.any():
      vectors[first] = self._old[rows[first]]
    for place, row in enumerate(rows.tolist()):
      if row in self._later_old:
        vectors[place] = self._later_old[row]
    return vectors
