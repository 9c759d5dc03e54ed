"""Items that the plan does not know, or that changed since it was made.

The old pipeline writes on while the store is backfilled. What it wrote has an
old embedding and no new one: it is aligned at once, which makes it searchable,
and joins the end of the plan's order by the aligner's score.
"""

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import census

_PIECE = 1000


class Newcomers:
  """Aligns newcomers and remembers their scores.

  Args:
    store, plan: Where from, and in which space.
    aligner: See `worker.Worker`; None aligns nothing.

  Attributes:
    direct: Ids [item] that could not be aligned: for the new model.
    moved: How many the last call of `align` aligned.
  """

  def __init__(self, store: stores.Store, plan, aligner=None):
    self._store, self._plan, self._aligner = store, plan, aligner
    self._score = {}
    self.direct, self.moved = plan.ids[:0], 0

  def align(self, found: census.Census, filled: bool):
    """Aligns what has no new embedding.

    Args:
      found: What the store holds; aligned newcomers are marked in it.
      filled: Whether the plan's own items had their turn, so that one without
        a tag was inserted again since.
    """
    wanted = [census.STALE, *([census.UNTAGGED] if filled else [])]
    own = np.flatnonzero(np.isin(found.states, wanted))
    others = found.newcomers
    new = np.flatnonzero(
      np.isin(others.states, [census.STALE, census.UNTAGGED])
    )
    ids = np.concatenate([self._plan.ids[own], others.ids[new]])
    done = [
      self._align(ids[i : i + _PIECE]) for i in range(0, len(ids), _PIECE)
    ]
    aligned = np.concatenate(done) if done else ids
    self.moved = len(aligned)
    self.direct = ids[~np.isin(ids, aligned)]
    found.states[own[np.isin(self._plan.ids[own], aligned)]] = census.ALIGNED
    others.states[new[np.isin(others.ids[new], aligned)]] = census.ALIGNED

  def _align(self, ids):
    if self._aligner is None:
      return ids[:0]
    items = self._with_old(ids)
    if not len(items):
      return ids[:0]
    aligned, scores = self._aligner(items.vectors)
    self._remember(items.ids, scores)
    written = []
    for tag in (None, stores.STALE):
      of_tag = np.array([space == tag for space in items.spaces], bool)
      written.append(
        self._store.write(
          items.ids[of_tag],
          np.asarray(aligned)[of_tag],
          self._plan.aligned_space,
          only_if=tag,
          revisions=items.revisions[of_tag],
        )
      )
    return np.concatenate(written).astype(ids.dtype)

  def ordered(self, found: census.Census) -> np.ndarray:
    """Ids of aligned newcomers, those with the highest scores first."""
    others = found.newcomers
    ids = others.ids[others.states == census.ALIGNED]
    unknown = np.array([i for i in ids.tolist() if i not in self._score])
    for start in range(0, len(unknown), _PIECE):
      self._rate(unknown[start : start + _PIECE])
    scores = [self._score.get(i, 0.0) for i in ids.tolist()]
    return ids[np.argsort(-np.array(scores), kind='stable')]

  def _rate(self, ids):
    """Scores of what an earlier call aligned."""
    if self._aligner is None:
      return
    items = self._with_old(ids)
    if len(items):
      self._remember(items.ids, self._aligner(items.vectors)[1])

  def _with_old(self, ids):
    """Items whose old embeddings are there."""
    items = self._store.read(ids, 'old')
    if items.vectors is None:
      return items[:0]
    return items[np.isfinite(items.vectors).all(axis=1)]

  def _remember(self, ids, scores):
    self._score.update(zip(ids.tolist(), map(float, scores), strict=True))
