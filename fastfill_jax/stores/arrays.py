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

from fastfill_jax.stores import arrays_state, base, shards

# Files of the log before the state is written anew.
_LOG_LENGTH = 256
_PIECE = 65_536
_ATTEMPTS = 100


class ArraysStore(base.Store):
  """A folder of arrays; state and search are in memory.

  Args:
    directory: With id/ and old/, see `shards.ShardedArray`.
    names: Not used: a folder is one table.

  Raises:
    ValueError: If the arrays are not there or do not fit each other.
  """

  has_snapshots = True

  def __init__(self, directory, names: base.Names | None = None):
    super().__init__(names or base.Names())
    self._directory = pathlib.Path(directory)
    self._log = self._directory / 'log'
    ids = base.check_ids(shards.ShardedArray(self._directory / 'id')[:])
    self._old = None
    if (self._directory / 'old').exists():
      self._old = shards.ShardedArray(self._directory / 'old')
      if len(self._old) != len(ids) or self._old.ndim != 2:
        raise ValueError(f'old {self._old.shape} does not fit {len(ids)} ids.')
    self._state, self._frozen = arrays_state.State(ids), False
    self._index, self._index_version = None, -1
    self._refresh()

  def describe(self):
    self._refresh()
    new = self._state.new
    return base.Description(
      store=f'arrays, version {self._state.version}',
      old_dim=None if self._old is None else self._old.shape[1],
      new_dim=None if new is None else new.shape[1],
      serving=self._state.serving,
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
    rows = np.flatnonzero(self._state.alive)
    for start in range(0, len(rows), _PIECE):
      piece = rows[start : start + _PIECE]
      yield self._state.ids[piece], self._state.space[piece]

  def read(self, ids, field='new'):
    self._refresh()
    state = self._state
    rows = state.rows(base.check_ids(ids))
    rows = rows[rows >= 0]
    vectors = None
    if field == 'new' and state.new is not None:
      vectors = state.new[rows]
    elif field == 'old' and self._old is not None:
      vectors = self._read_old(rows)
    return base.Items(
      state.ids[rows],
      state.space[rows],
      base.objects([str(r) for r in state.revision[rows]]),
      vectors,
    )

  def _read_old(self, rows):
    vectors = np.full((len(rows), self._old.shape[1]), np.nan, np.float32)
    first = rows < len(self._old)
    vectors[first] = self._old[rows[first]]
    for place, row in enumerate(rows.tolist()):
      if row in self._state.later_old:
        vectors[place] = self._state.later_old[row]
    return vectors

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
    state = self._state
    shown = state.alive & ~np.isin(state.space, [None, base.STALE])
    if version < state.deleted_at:
      rows = np.flatnonzero(shown)
      index.build(state.new[rows], state.ids[rows])
    elif version < state.version:
      rows = np.flatnonzero(shown & (state.changed > version))
      index.upsert(state.ids[rows], state.new[rows])
    return state.version

  @contextlib.contextmanager
  def snapshot(self):
    self._refresh()
    frozen = copy.copy(self)
    frozen._state, frozen._frozen = self._state.copy(), True
    frozen._index = None
    yield frozen

  def upkeep(self, distance, written=None):
    if written is not None and len(list(self._log.glob('*'))) < _LOG_LENGTH:
      return False
    with self._locked():
      self._put(self._state.dump())
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
      rows = self._state.rows(ids)
      good = (rows >= 0) & (self._state.space[rows] == only_if)
      if revisions is not None:
        good &= self._state.revision[rows].astype(str) == revisions.astype(str)
      if good.any():
        new = {'ids': ids[good], 'new': vectors[good], 'space': space}
        self._put({'op': 'write', **new})
    return ids[good]

  def _append(self, entry):
    with self._locked():
      self._put(entry)

  @contextlib.contextmanager
  def _locked(self):
    """Keeps other writers out, and knows what they wrote before."""
    if self._frozen:
      raise ValueError('A snapshot takes no writes.')
    self._log.mkdir(exist_ok=True)
    with open(self._directory / 'lock', 'w') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      self._refresh()
      yield

  def _put(self, entry):
    """Writes the next file of the log; the caller holds the lock."""
    path = self._log / f'{self._state.version + 1:010d}.npz'
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
    for attempt in range(_ATTEMPTS):
      try:
        for path in sorted(self._log.glob('*.npz')):
          if int(path.stem) > self._state.version:
            with np.load(path, allow_pickle=False) as entry:
              self._state.apply(int(path.stem), dict(entry))
        return
      except FileNotFoundError:
        # Replaced by a full copy of the state since they were listed.
        if attempt == _ATTEMPTS - 1:
          raise
