"""Which items of a store have which tag, beside a plan."""

import dataclasses

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import plan as plans

_STATES = GONE, UNTAGGED, STALE, ALIGNED, NEW, ADOPTED, OTHER = range(7)


@dataclasses.dataclass(frozen=True)
class Newcomers:
  """Items that the plan does not know.

  Attributes:
    ids: [item].
    states: [item], as Census.states.
  """

  ids: np.ndarray
  states: np.ndarray


class Census:
  """One scan of a store.

  Attributes:
    counts: {tag: items}.
    states: int8 [the plan's item]: GONE (the store has it no more), UNTAGGED,
      STALE, ALIGNED, NEW (as the plan would tag it), ADOPTED (a tag that the
      user gave to the plan) or OTHER.
    newcomers: The rest of the store's items.
  """

  def __init__(self, store: stores.Store, plan: plans.Plan, adopted=()):
    self.counts = {}
    self.states = np.full(plan.count, GONE, np.int8)
    known = {
      None: UNTAGGED,
      stores.STALE: STALE,
      plan.aligned_space: ALIGNED,
      plan.new_space: NEW,
      **dict.fromkeys(adopted, ADOPTED),
    }
    ids_of_newcomers, states_of_newcomers = [], []
    for ids, spaces in store.scan():
      tags, inverse = _unique(spaces)
      for tag, n in zip(tags, np.bincount(inverse), strict=True):
        self.counts[tag] = self.counts.get(tag, 0) + int(n)
      states = np.array([known.get(tag, OTHER) for tag in tags], np.int8)
      states = states[inverse]
      rows = plan.rows(ids)
      self.states[rows[rows >= 0]] = states[rows >= 0]
      if (rows < 0).any():
        ids_of_newcomers.append(ids[rows < 0])
        states_of_newcomers.append(states[rows < 0])
    self.newcomers = Newcomers(
      np.concatenate(ids_of_newcomers or [plan.ids[:0]]),
      np.concatenate(states_of_newcomers or [np.zeros(0, np.int8)]),
    )

  @property
  def total(self) -> int:
    return sum(self.counts.values())

  def refuse_strange(self, plan: plans.Plan, named=()):
    """Refuses another plan's store, by its ids or its tags.

    Raises:
      ValueError: If it has tags that neither the plan writes nor the user has
        named, or items, but none of the plan's.
    """
    if self.total and (self.states == GONE).all():
      raise ValueError(
        f'None of the {self.total:,} items in the store is in the plan: are '
        f'its ids {plan.ids.dtype.name}, as {plan.ids[0].item()!r}, and is it '
        'the right table?'
      )
    known = {None, stores.STALE, plan.aligned_space, plan.new_space, *named}
    unknown = sorted(set(self.counts) - known)
    if unknown:
      listed = ', '.join(f'{tag!r} ({self.counts[tag]:,})' for tag in unknown)
      raise ValueError(
        f'The store has tags that this plan does not know: {listed}. Say '
        '--adopt=TAG for embeddings that it replaces by its own aligned ones, '
        '--leave=TAG for those that stay.'
      )


def _unique(spaces):
  """The different tags of an object array, and which one each item has."""
  codes = {}
  inverse = np.array([codes.setdefault(s, len(codes)) for s in spaces.tolist()])
  return list(codes), inverse
