"""Embedders that fail in every way that one has seen."""

import threading
import time

import numpy as np
import pytest

from fastfill_jax.backfill import embedders

DIM = 4
IDS = np.arange(32)


def vectors(ids):
  return np.stack([np.asarray(ids), *[np.ones(len(ids))] * (DIM - 1)], axis=1)


@pytest.fixture
def waits(monkeypatch):
  """What an embedder waited; no test waits that long."""
  waited = []

  def sleep(self, seconds):
    if seconds > 0:
      waited.append(seconds)

  monkeypatch.setattr(embedders.Embedder, '_sleep', sleep)
  return waited


def test_calls_in_pieces_and_keeps_the_order():
  calls = []

  def function(ids):
    calls.append(len(ids))
    return vectors(ids)

  answer = embedders.Embedder(function, DIM, batch_size=10)(IDS)
  assert calls == [10, 10, 10, 2]
  assert answer.ids == IDS.tolist()
  np.testing.assert_array_equal(answer.vectors, vectors(IDS))


def test_a_class_brings_its_batch_size_and_price():
  class Mine:
    batch_size, price = 3, 20.0

    def __call__(self, ids):
      assert len(ids) <= 3
      return vectors(ids)

  engine = embedders.Embedder(Mine(), DIM)
  assert engine.item_price == 0.02
  assert len(engine(IDS).ids) == 32


@pytest.mark.parametrize(
  'error', [embedders.Retry(), TimeoutError(), ConnectionError()]
)
def test_waits_longer_each_time(waits, error):
  left = [4]

  def function(ids):
    left[0] -= 1
    if left[0] >= 0:
      raise error
    return vectors(ids)

  answer = embedders.Embedder(function, DIM, batch_size=32)(IDS)
  assert len(answer.ids) == 32 and answer.retries == 4 and not answer.failed
  # Between half of it and all of it: 0.5, 1, 2, 4 seconds.
  expected = np.array([0.5, 1.0, 2.0, 4.0])
  assert (np.array(waits) <= expected).all()
  assert (np.array(waits) >= expected / 2).all()


def test_waits_as_long_as_it_is_told(waits):
  left = [1]

  def function(ids):
    left[0] -= 1
    if left[0] >= 0:
      raise embedders.Retry(after=17)
    return vectors(ids)

  embedders.Embedder(function, DIM)(IDS)
  assert waits == [17]


def test_one_item_that_always_times_out_is_told_apart(waits):
  def function(ids):
    if 13 in ids:
      raise TimeoutError('too slow')
    return vectors(ids)

  answer = embedders.Embedder(function, DIM, batch_size=32, retries=3)(IDS)
  assert answer.failed == {13: 'TimeoutError: too slow'}
  assert answer.ids == [i for i in range(32) if i != 13]
  # Patience once, then one try more for each half.
  assert answer.retries <= 3 + 5


def test_bisects_with_few_calls():
  calls = []

  def function(ids):
    calls.append(len(ids))
    if {5, 21} & set(ids.tolist()):
      raise KeyError('no such image')
    return vectors(ids)

  answer = embedders.Embedder(function, DIM, batch_size=32)(IDS)
  assert set(answer.failed) == {5, 21}
  assert len(answer.ids) == 30
  # Two paths of halves, 32 to 1, each with its neighbour.
  assert len(calls) <= 1 + 2 * 2 * 5


def test_rejected_ids_are_not_searched_for():
  calls = []

  def function(ids):
    calls.append(len(ids))
    bad = [i for i in (3, 4) if i in ids]
    if bad:
      raise embedders.Reject(bad, 'not an image')
    return vectors(ids)

  answer = embedders.Embedder(function, DIM, batch_size=32)(IDS)
  assert answer.failed == {3: 'not an image', 4: 'not an image'}
  assert calls == [32, 30]


def test_rejecting_what_was_not_asked_for_is_broken():
  def function(ids):
    raise embedders.Reject([99], 'what')

  with pytest.raises(embedders.Broken, match='not given'):
    embedders.Embedder(function, DIM)(IDS)


@pytest.mark.parametrize('value', [np.nan, np.inf, 0.0])
def test_bad_vectors_fail_alone(value):
  def function(ids):
    x = vectors(ids)
    x[ids == 9] = value
    return x

  answer = embedders.Embedder(function, DIM)(IDS)
  assert set(answer.failed) == {9} and len(answer.ids) == 31


def test_gives_up_after_twenty_failures_in_a_row():
  calls = []

  def function(ids):
    calls.append(ids)
    raise RuntimeError('no key')

  with pytest.raises(embedders.Broken, match='20 items in a row'):
    embedders.Embedder(function, DIM, batch_size=1)(IDS)
  assert len(calls) == 20


def test_stops_waiting_when_told_and_keeps_what_it_has():
  def function(ids):
    if 10 in ids:
      raise embedders.Retry(after=60)
    return vectors(ids)

  stop = threading.Event()
  engine = embedders.Embedder(function, DIM, batch_size=8, stop=stop)
  threading.Timer(0.05, stop.set).start()
  start = time.monotonic()
  assert engine(IDS).ids == list(range(8))
  assert time.monotonic() - start < 10
  assert engine(IDS).ids == []


def test_limits_hold_for_all_threads(waits):
  engine = embedders.Embedder(
    vectors, DIM, batch_size=8, items_per_second=100, calls_per_second=50
  )
  threads = [threading.Thread(target=engine, args=[IDS]) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  # 8 calls of 8 items: the last begins 7 * 0.08 s after the first.
  assert max(waits) == pytest.approx(0.56, abs=0.05)


def test_check_knows_models_apart():
  rng = np.random.default_rng(0)
  new = rng.standard_normal((200, 16))
  # Poorly aligned, all leaning one way: still the right model.
  aligned = 0.3 * new + rng.standard_normal((200, 16)) + 1.0
  assert embedders.check(new, aligned, 'cosine') > 0
  for wrong in (rng.standard_normal((200, 16)) + 1.0, new[::-1], -new):
    with pytest.raises(embedders.Broken, match='wrong model'):
      embedders.check(wrong, aligned, 'cosine')
  with pytest.raises(embedders.Broken, match=r'at least 0\.9'):
    embedders.check(new, aligned, 'cosine', min_cosine=0.9)
  # Too few to tell.
  embedders.check(new[:5], -new[:5], 'cosine')


def test_check_of_lengths_is_for_l2():
  x = np.random.default_rng(0).standard_normal((50, 16))
  embedders.check(10 * x, x, 'cosine')
  embedders.check(2 * x, x, 'l2')
  with pytest.raises(embedders.Broken, match='10 times as long'):
    embedders.check(10 * x, x, 'l2')
