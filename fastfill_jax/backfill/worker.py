"""Backfills a store: in a plan's order, until it is told to stop.

The store's tags say what is left, so a worker keeps no place: it scans, works
through what it found, and scans again, until a scan finds nothing. Whatever
happened in between, a kill, another worker, the application's own writes, is
in the next scan.
"""

import collections
import concurrent.futures
import threading
import time

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import (
  census,
  embedders,
  journal,
  newcomers,
  pace,
  plan,
)

_TO_THE_END = pace.Until()


class Worker:
  """One writer; threads embed ahead of it.

  Args:
    store: Prepared.
    plan: What to write, in which order.
    embedder: Of new embeddings.
    journal: Of costs and failures.
    aligner: A function old [item, old_dim] -> (aligned [item, new_dim],
      score [item]) for items that the plan does not know; larger scores are
      backfilled sooner. None: they are embedded at once.
    until: Where to end.
    adopted: Tags that the plan takes over.
    left: Other tags that are known, and left alone.
    batch: Items written at once.
    threads: Batches embedded at once.
    min_cosine: See `embedders.check`.
    catch_up: Seconds after which newcomers are looked for.
    stop: Set it to end after the batches in flight.
    report: Called with the worker after every batch.
  """

  def __init__(
    self,
    store: stores.Store,
    plan: plan.Plan,
    embedder: embedders.Embedder,
    journal: journal.Journal,
    *,
    aligner=None,
    until: pace.Until = _TO_THE_END,
    adopted=(),
    left=(),
    batch: int = 1000,
    threads: int = 4,
    min_cosine: float = 0.0,
    catch_up: float = 300.0,
    stop: threading.Event | None = None,
    report=lambda worker: None,
  ):
    self._store, self._plan, self._embedder = store, plan, embedder
    self._journal, self._until, self._adopted = journal, until, adopted
    self._left = left
    self._newcomers = newcomers.Newcomers(store, plan, aligner)
    self._batch, self._threads = batch, threads
    self._min_cosine, self._catch_up = min_cosine, catch_up
    self._stop = stop or threading.Event()
    self._report = report
    self._unanswered = set()
    self._since_upkeep, self.written, self.lost = 0, 0, 0
    self.new, self.in_flight = 0, 0

  def run(self) -> str:
    """Backfills.

    Returns:
      Why it ended: 'complete', 'until', 'stopped', or 'waiting' for items that
      failed, have no embedding yet or change all the time.

    Raises:
      embedders.Broken: If the embedder is at fault.
      ValueError: If another worker is at it, or there are unknown tags.
    """
    self._started = time.monotonic()
    with self._journal.lock(), self._store.lock():
      found = census.Census(self._store, self._plan, self._adopted)
      found.refuse_strange(self._plan, (*self._adopted, *self._left))
      self._journal.append(
        'start', plan=self._plan.digest, counts=_named(found.counts)
      )
      self.fill(found)
      reason = self._loop()
      if self._since_upkeep and reason != 'stopped':
        self._store.upkeep(self._plan.distance)
      self._journal.append(
        'end', reason=reason, counts=_named(self._store.counts())
      )
    return reason

  def fill(self, found: census.Census):
    """Writes the plan's aligned embeddings where there are none."""
    states = [census.ADOPTED]
    if not self._journal.filled:
      states.append(census.UNTAGGED)
    rows = np.flatnonzero(np.isin(found.states, states))
    filled = 0
    for start in range(0, len(rows), self._batch):
      if self._stop.is_set():
        return
      part = rows[start : start + self._batch]
      ids, aligned = self._plan.ids[part], self._plan.aligned[part]
      for tag in (None, *self._adopted):
        written = self._store.write(
          ids, aligned, self._plan.aligned_space, only_if=tag
        )
        filled += len(written)
        left = ~np.isin(ids, written)
        ids, aligned = ids[left], aligned[left]
    if filled or not self._journal.filled:
      self._store.upkeep(self._plan.distance)
    if not self._journal.filled:
      self._journal.append('filled', items=filled)

  def _loop(self):
    idle = 0
    while idle < 2:
      if self._stop.is_set():
        return 'stopped'
      found = census.Census(self._store, self._plan, self._adopted)
      self.new = found.counts.get(self._plan.new_space, 0)
      self._newcomers.align(found, self._journal.filled)
      direct, todo = self._newcomers.direct, self._todo(found)
      if not len(direct) and not len(todo):
        return 'complete'
      before = self.written
      # What has no embedding at all cannot be found: it comes first.
      self._pass(self._open(direct), {None, stores.STALE})
      self._pass(self._open(todo), {self._plan.aligned_space})
      if self._stop.is_set():
        return 'stopped'
      if self._room() <= 0:
        return 'until'
      # Nothing written may mean that another worker was faster: look again.
      moved = self.written > before or self._newcomers.moved
      idle = 0 if moved else idle + 1
    return 'waiting'

  def _todo(self, found):
    """Ids of aligned items, first to be backfilled first."""
    order = self._plan.order
    order = order[found.states[order] == census.ALIGNED]
    return np.concatenate(
      [self._plan.ids[order], self._newcomers.ordered(found)]
    )

  def _open(self, ids):
    """Ids that the embedder has, that neither failed nor went unanswered."""
    closed = [*self._journal.quarantine, *self._unanswered]
    ids = self._embedder.offered(ids)
    return ids[~np.isin(ids, closed)] if closed else ids

  def _pass(self, ids, expected):
    """Works through ids; ends early to look for newcomers."""
    deadline, begun = time.monotonic() + self._catch_up, False
    pending = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(self._threads)
    try:
      while True:
        room = min(self._batch, self._room())
        late = begun and time.monotonic() > deadline
        more = len(ids) > 0 and room > 0 and not (late or self._stop.is_set())
        if more:
          begun = True
          items = self._read(ids[:room], expected)
          ids = ids[room:]
          self.in_flight += len(items)
          pending.append((items, pool.submit(self._timed, items.ids)))
        if pending and (len(pending) > self._threads or not more):
          self._commit(*pending.popleft())
        elif not more:
          return
    finally:
      # After an error: whoever waits to try again stops.
      if pending:
        self._stop.set()
      pool.shutdown(cancel_futures=True)

  def _room(self):
    """How many more items may be embedded."""
    rooms = [2**62]
    if self._until.items is not None:
      rooms.append(self._until.items - self.new - self.in_flight)
    price = self._embedder.item_price
    if self._until.dollars is not None and price:
      left = self._until.dollars - self._journal.cost
      rooms.append(np.floor(left / price + 1e-6) - self.in_flight)
    if self._until.seconds is not None:
      late = time.monotonic() - self._started > self._until.seconds
      rooms.append(0 if late else rooms[0])
    return int(min(rooms))

  def _read(self, ids, expected):
    """Items that still are as expected, in the order of the ids."""
    items = self._store.read(ids, None)
    place = {i: n for n, i in enumerate(ids.tolist())}
    order = np.argsort([place[i] for i in items.ids.tolist()])
    good = [n for n in order if items.spaces[n] in expected]
    return items[np.array(good, np.int64)]

  def _timed(self, ids):
    start = time.monotonic()
    return self._embedder(ids), time.monotonic() - start

  def _commit(self, items, future):
    """Writes a batch's embeddings where the items are as they were."""
    answer, seconds = future.result()
    ids = np.array(answer.ids, items.ids.dtype)
    vectors = np.array(answer.vectors).reshape(len(ids), self._plan.new_dim)
    try:
      cosine = self._check(ids, vectors)
    except embedders.Broken:
      self._account(items, answer, 0, seconds, None)  # it was paid for
      raise
    place = {i: n for n, i in enumerate(items.ids.tolist())}
    asked = items[np.array([place[i] for i in answer.ids], np.int64)]
    written = 0
    for tag in set(asked.spaces.tolist()):
      of_tag = np.array([space == tag for space in asked.spaces], bool)
      written += len(
        self._store.write(
          ids[of_tag],
          vectors[of_tag],
          self._plan.new_space,
          only_if=tag,
          revisions=asked.revisions[of_tag],
        )
      )
    self._account(items, answer, written, seconds, cosine)

  def _check(self, ids, vectors):
    rows = self._plan.rows(ids)
    known = rows >= 0
    if not known.any():
      return None
    aligned = self._plan.aligned[rows[known]]
    return embedders.check(
      vectors[known], aligned, self._plan.distance, self._min_cosine
    )

  def _account(self, items, answer, written, seconds, cosine):
    self.in_flight -= len(items)
    self.new += written
    self.written += written
    self.lost += len(answer.ids) - written
    answered = {*answer.ids, *answer.failed}
    self._unanswered.update(i for i in items.ids.tolist() if i not in answered)
    self._journal.append(
      'batch',
      embedded=len(answer.ids),
      written=written,
      seconds=round(seconds, 4),
      cost=len(answer.ids) * self._embedder.item_price,
      cosine=cosine and round(cosine, 4),
      retries=answer.retries,
      failed=list(answer.failed.items()),
      new=self.new,
    )
    self._since_upkeep += written
    if self._store.upkeep(self._plan.distance, self._since_upkeep):
      self._since_upkeep = 0
    self._report(self)


def _named(counts):
  """Counts by tag as JSON has them."""
  return {tag or 'untagged': n for tag, n in counts.items()}
