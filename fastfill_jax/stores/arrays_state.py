"""The state of a folder of arrays: what the entries of its log add up to."""

import numpy as np

from fastfill_jax.stores import base


class State:
  """Ids with their tags, revisions and new embeddings, in memory.

  Args:
    ids: [item] that are there from the start.

  Attributes:
    version: Number of the last entry.
    deleted_at: The last one after which an item could no longer be found.
    serving: 'old' or 'new'.
    ids, alive, changed, revision, space: [row]; a row is never reused by
      another id; `changed` is the version that last wrote its new embedding.
    new: float32 [row, embedding], NaN where there is none; or None.
    later_old: {row: old embedding} of what was inserted or changed.
  """

  def __init__(self, ids: np.ndarray):
    n = len(ids)
    self.version, self.deleted_at, self.serving = 0, 0, 'old'
    self.ids, self._row_of = ids, {}
    self._index(0)
    self.alive = np.ones(n, bool)
    self.changed = np.zeros(n, np.int64)
    self.revision = np.zeros(n, np.int64)
    self.space = base.objects([None] * n)
    self.new, self.later_old = None, {}

  def _index(self, start):
    rows = enumerate(self.ids[start:].tolist(), start)
    self._row_of.update((i, row) for row, i in rows)

  def rows(self, ids: np.ndarray) -> np.ndarray:
    """Rows [item] of ids, -1 for what is not there."""
    rows = np.array([self._row_of.get(i, -1) for i in ids.tolist()], np.int64)
    return np.where((rows >= 0) & self.alive[rows], rows, -1)

  def copy(self) -> 'State':
    """One that later entries do not change."""
    other = State(self.ids)
    other.load(self.dump())
    other.version = self.version
    return other

  def apply(self, version: int, entry: dict):
    """Adds an entry of the log.

    Raises:
      FileNotFoundError: If entries before it are missing.
    """
    op = str(entry['op'])
    if op == 'state':
      self.load(entry)
    elif version != self.version + 1:
      raise FileNotFoundError(f'Entry {self.version + 1} is missing.')
    elif op == 'prepare':
      self.new = np.full((len(self.ids), int(entry['dim'])), np.nan, 'f4')
    elif op == 'write':
      rows = self.rows(entry['ids'])
      self.new[rows], self.space[rows] = entry['new'], str(entry['space'])
      self.changed[rows] = version
    elif op == 'serve':
      self.serving = str(entry['field'])
    elif op == 'drop':
      self.new, self.space[:] = None, None
    elif op == 'delete':
      rows = self.rows(entry['ids'])
      self.alive[rows[rows >= 0]] = False
      self.deleted_at = version
    elif op == 'put':
      self._put(entry['ids'], entry['old'])
      self.deleted_at = version
    self.version = version

  def _put(self, ids, old):
    missing = np.array([i not in self._row_of for i in ids.tolist()], bool)
    self._grow(ids[missing])
    rows = np.array([self._row_of[i] for i in ids.tolist()], np.int64)
    # A changed item becomes stale, one that came back has no tag.
    known = self.alive[rows] & ~missing
    self.space[rows] = np.where(known, base.STALE, None)
    if self.new is not None:
      self.new[rows] = np.nan
    self.alive[rows] = True
    self.revision[rows] += 1
    self.later_old.update(zip(rows.tolist(), old, strict=True))

  def _grow(self, ids):
    n, m = len(self.ids), len(ids)
    self.ids = np.concatenate([self.ids, ids])
    self._index(n)
    self.alive = np.pad(self.alive, (0, m), constant_values=True)
    self.changed = np.pad(self.changed, (0, m))
    self.revision = np.pad(self.revision, (0, m))
    self.space = np.concatenate([self.space, base.objects([None] * m)])
    if self.new is not None:
      pad = ((0, m), (0, 0))
      self.new = np.pad(self.new, pad, constant_values=np.nan)

  def dump(self) -> dict:
    """Everything, as an entry of the log."""
    later = sorted(self.later_old)
    return {
      'op': 'state',
      'ids': self.ids,
      'alive': self.alive,
      'changed': self.changed,
      'deleted_at': self.deleted_at,
      'revision': self.revision,
      'space': np.array([s or '' for s in self.space], str),
      'new': np.zeros((0, 0)) if self.new is None else self.new,
      'serving': self.serving,
      'later': np.array(later, np.int64),
      'later_old': np.array([self.later_old[row] for row in later]),
    }

  def load(self, entry: dict):
    """Takes what `dump` returned, as its own."""
    self.ids, self._row_of = entry['ids'], {}
    self._index(0)
    for name in ('alive', 'changed', 'revision'):
      setattr(self, name, entry[name].copy())
    self.deleted_at = int(entry['deleted_at'])
    self.serving = str(entry['serving'])
    self.space = base.objects([s or None for s in entry['space'].tolist()])
    new = entry['new']
    self.new = new.copy() if new.shape[1] else None
    later = entry['later'].tolist()
    self.later_old = dict(zip(later, entry['later_old'], strict=True))
