"""Calls the user's embedder, patiently.

An embedder is a function, or a class that is made without arguments:

  embedder(ids [item]) -> vectors [item, new_dim], or {id: vector} of those it
                          has; the others are left for another time

It may carry `batch_size`, the most ids it takes at once, and `price`, dollars
per 1,000 items. It may raise `Retry(after)` or `Reject(ids, reason)`;
time-outs and lost connections are tried again, too. Whatever else fails is
halved until the items at fault are alone, and those are put aside.
"""

import dataclasses
import importlib
import random
import threading

import numpy as np

from fastfill_jax.backfill import pace
from fastfill_jax.stores import shards

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
# So many items in a row fail when the embedder is at fault, not they.
_BROKEN_AFTER = 20
# Fewer pairs say nothing about a model.
_FEWEST_PAIRS = 16
_STANDARD_ERRORS = 4
_LENGTH_RATIO = 4


class Retry(Exception):
  """Raised by an embedder that wants to be called again later.

  Args:
    after: Seconds, if it knows.
  """

  def __init__(self, after: float = 0.0):
    super().__init__(f'asked to be called again after {after} s')
    self.after = after


class Reject(Exception):
  """Raised by an embedder that cannot embed some of the ids."""

  def __init__(self, ids, reason: str):
    super().__init__(reason)
    self.ids, self.reason = list(ids), reason


class Broken(RuntimeError):
  """The embedder as a whole is at fault; nothing more is asked of it."""


class _Stopped(Exception):
  """Told to stop while waiting."""


@dataclasses.dataclass
class Answer:
  """What came of a batch: ids and vectors, what failed, what it took."""

  ids: list = dataclasses.field(default_factory=list)
  vectors: list = dataclasses.field(default_factory=list)
  failed: dict = dataclasses.field(default_factory=dict)
  retries: int = 0


class Embedder:
  """An embedder that many threads may call.

  Args:
    function: The user's.
    dim: The width its vectors must have.
    price: Dollars per 1,000 items; None: the function's own, or 0.
    batch_size: Ids in one call; None: the function's own, or 256.
    items_per_second, calls_per_second: Limits, if any.
    retries: How often a call is tried again.
    stop: Once set, nobody waits any more.
  """

  def __init__(
    self,
    function,
    dim: int,
    *,
    price: float | None = None,
    batch_size: int | None = None,
    items_per_second: float | None = None,
    calls_per_second: float | None = None,
    retries: int = 8,
    stop: threading.Event | None = None,
  ):
    self._function, self._dim = function, dim
    if price is None:
      price = getattr(function, 'price', 0.0)
    self.item_price = price / 1000
    self._batch = batch_size or getattr(function, 'batch_size', 256)
    self._limits = [
      (pace.RateLimit(rate), by_item)
      for rate, by_item in ((items_per_second, True), (calls_per_second, False))
      if rate is not None
    ]
    self._retries = retries
    self._stop = stop or threading.Event()
    self._lock, self._failures = threading.Lock(), 0

  def __call__(self, ids: np.ndarray) -> Answer:
    """Embeds ids [item]; once told to stop, only the call that is under way.

    Raises:
      Broken: If the embedder itself is at fault.
    """
    answer = Answer()
    try:
      for start in range(0, len(ids), self._batch):
        if self._stop.is_set():
          break
        self._halve(ids[start : start + self._batch], self._retries, answer)
    except _Stopped:
      pass  # what was paid for is kept
    return answer

  def offered(self, ids: np.ndarray) -> np.ndarray:
    """Those of the ids [item] that a function with `ids` has."""
    own = getattr(self._function, 'ids', None)
    return ids if own is None else ids[np.isin(ids, own)]

  def _halve(self, ids, retries, answer):
    try:
      self._take(ids, self._patiently(ids, retries, answer), answer)
    except (Broken, _Stopped):
      raise
    except Reject as error:
      rejected = np.isin(ids, error.ids)
      if not rejected.any():
        raise Broken('The embedder rejects ids it was not given.') from error
      answer.failed.update(dict.fromkeys(ids[rejected].tolist(), error.reason))
      if not rejected.all():
        self._halve(ids[~rejected], retries, answer)
    except Exception as error:
      if len(ids) == 1:
        self._failed(ids[0].item(), error, answer)
        return
      middle = len(ids) // 2
      # The whole was tried patiently; its parts are merely told apart.
      self._halve(ids[:middle], 1, answer)
      self._halve(ids[middle:], 1, answer)

  def _patiently(self, ids, retries, answer):
    """The function's result, after as many tries as it takes."""
    wait = _FIRST_WAIT
    for attempt in range(retries + 1):
      for limit, by_item in self._limits:
        self._sleep(limit.reserve(len(ids) if by_item else 1))
      try:
        return self._function(ids)
      except (Retry, TimeoutError, ConnectionError) as error:
        if attempt == retries:
          raise
        answer.retries += 1
        # Not all threads at once.
        jitter = random.uniform(0.5, 1) * wait
        self._sleep(max(getattr(error, 'after', 0.0), jitter))
        wait = min(2 * wait, _LONGEST_WAIT)

  def _sleep(self, seconds):
    if seconds > 0 and self._stop.wait(seconds):
      raise _Stopped

  def _take(self, ids, result, answer):
    with self._lock:
      self._failures = 0
    if isinstance(result, dict):
      known = set(ids.tolist())
      unknown = [i for i in result if i not in known]
      if unknown:
        raise Broken(f'The embedder returned {unknown[0]!r}, not asked for.')
      ids = [i for i in ids.tolist() if i in result]
      result = [result[i] for i in ids]
    else:
      ids = ids.tolist()
    if not len(ids):
      return
    vectors = np.asarray(result)
    if (
      vectors.shape != (len(ids), self._dim) or vectors.dtype.kind not in 'fiu'
    ):
      raise Broken(
        f'The embedder returned {vectors.dtype} {vectors.shape} for {len(ids)} '
        f'ids, not real numbers [{len(ids)}, {self._dim}].'
      )
    vectors = vectors.astype(np.float32)
    good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    for i, vector, is_good in zip(ids, vectors, good, strict=True):
      if is_good:
        answer.ids.append(i)
        answer.vectors.append(vector)
      else:
        answer.failed[i] = 'its vector is zero or not finite'

  def _failed(self, i, error, answer):
    answer.failed[i] = f'{type(error).__name__}: {error}'[:200]
    with self._lock:
      self._failures += 1
      if self._failures >= _BROKEN_AFTER:
        raise Broken(
          f'{self._failures} items in a row failed, the last with '
          f'{type(error).__name__}: {error}'
        ) from error


class Vectors:
  """Embeddings that were computed elsewhere: DIR/id and DIR/vector, shards."""

  batch_size = 10_000

  def __init__(self, directory):
    self.ids = shards.ShardedArray(f'{directory}/id')[:]
    self._vectors = shards.ShardedArray(f'{directory}/vector')
    if len(self.ids) != len(self._vectors):
      raise ValueError(
        f'{directory} has {len(self.ids)} ids, {len(self._vectors)} vectors.'
      )
    self._row_of = {i: row for row, i in enumerate(self.ids.tolist())}

  def __call__(self, ids):
    found = [i for i in ids.tolist() if i in self._row_of]
    rows = np.array([self._row_of[i] for i in found], np.int64)
    return dict(zip(found, self._vectors[rows], strict=True))


def load(text: str):
  """The object that the user named, 'package.module:name'; a class is made.

  Raises:
    ValueError: If the name is none, or names nothing that can be called.
  """
  module, colon, name = text.partition(':')
  if not (module and colon and name):
    raise ValueError(f'{text!r} is not of the form package.module:function.')
  try:
    found = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    raise ValueError(f'{text!r} names nothing: {error}.') from error
  found = found() if isinstance(found, type) else found
  if not callable(found):
    raise ValueError(f'{text!r} is {type(found).__name__}, not callable.')
  return found


def check(new, aligned, distance: str, min_cosine: float = 0.0) -> float:
  """Whether new embeddings can be those that the alignment aimed at.

  Args:
    new: [item, embedding].
    aligned: Of the same items.
    distance: The plan's; lengths matter for 'l2' alone.
    min_cosine: What the pairs' mean cosine must reach.

  Returns:
    The mean cosine of the pairs.

  Raises:
    Broken: If an item's two embeddings are no more alike than those of two
      items: a wrong model, or ids in disorder; or if lengths differ a lot.
  """
  new, aligned = np.asarray(new, np.float64), np.asarray(aligned, np.float64)
  lengths = [np.linalg.norm(x, axis=1) for x in (new, aligned)]
  units = [
    x / np.maximum(length, 1e-30)[:, None]
    for x, length in zip((new, aligned), lengths, strict=True)
  ]
  own = (units[0] * units[1]).sum(axis=1)
  cosine = float(own.mean())
  if len(new) < _FEWEST_PAIRS:
    return cosine
  difference = own - (units[0] * np.roll(units[1], 1, axis=0)).sum(axis=1)
  error = difference.std() / np.sqrt(len(new))
  if difference.mean() <= _STANDARD_ERRORS * error or cosine < min_cosine:
    raise Broken(
      f'The new embeddings are not those that the plan expects: cosine '
      f'{cosine:.3f} to the aligned ones (at least {min_cosine:g} is asked), '
      f'{cosine - difference.mean():.3f} to those of other items. A wrong '
      'model or prefix, or ids in disorder? Nothing of this batch was written.'
    )
  ratio = np.median(lengths[0]) / max(np.median(lengths[1]), 1e-30)
  if distance == 'l2' and not 1 / _LENGTH_RATIO < ratio < _LENGTH_RATIO:
    raise Broken(
      f'The new embeddings are {ratio:.3g} times as long as the aligned ones; '
      'are those of the plan normalised and these not?'
    )
  return cosine
