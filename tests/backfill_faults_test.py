"""A worker whose embedder fails in one way or another."""

import backfill_cases as cases
import numpy as np
import pytest
import stores_cases
from backfill_runs import IDS, backfill, tags

from fastfill_jax.backfill import embedders, journal, plan


@pytest.fixture
def arrays(request):
  return stores_cases.make_app('arrays', request, IDS, cases.old(IDS))


@pytest.fixture
def planned(tmp_path):
  return plan.Plan(cases.write_plan(tmp_path / 'plan', IDS))


def test_poison_is_put_aside_and_the_rest_goes_on(arrays, planned):
  poison = set(planned.ids[::50].tolist())

  def function(ids):
    if poison & set(ids.tolist()):
      raise KeyError('no such image')
    return cases.new(ids)

  reason, _, kept = backfill(arrays, planned, function)
  assert reason == 'waiting'
  assert set(kept.quarantine) == poison
  found = tags(arrays)
  assert all((found[i] == cases.ALIGNED) == (i in poison) for i in found)
  # Not asked for again, until told to.
  reason, one, _ = backfill(arrays, planned, function)
  assert (reason, one.written) == ('waiting', 0)
  kept.append('retry')
  assert backfill(arrays, planned)[0] == 'complete'


def test_a_partial_answer_leaves_the_rest_for_later(arrays, planned):
  def half(ids):
    return {i: cases.new([i])[0] for i in ids.tolist() if i % 2}

  reason, _, kept = backfill(arrays, planned, half)
  assert reason == 'waiting' and not kept.quarantine
  found = tags(arrays)
  assert all((found[i] == cases.NEW) == bool(i % 2) for i in found)
  assert backfill(arrays, planned)[0] == 'complete'


@pytest.mark.parametrize(
  'function, message',
  [
    (lambda ids: cases.new(ids)[:, :-1], 'not real numbers'),
    (lambda ids: cases.new(ids)[:-1], 'not real numbers'),
    (lambda ids: cases.new(ids)[::-1], 'ids in disorder'),
    (lambda ids: cases.new(ids + 10_000), 'wrong'),
    (lambda ids: {'who': 1}, 'not asked for'),
  ],
)
def test_a_wrong_embedder_writes_nothing(arrays, planned, function, message):
  with pytest.raises(embedders.Broken, match=message):
    backfill(arrays, planned, function, batch=100, call=100)
  assert set(tags(arrays).values()) == {cases.ALIGNED}


def test_what_a_wrong_embedder_cost_is_on_record(arrays, planned):
  with pytest.raises(embedders.Broken):
    backfill(arrays, planned, lambda ids: cases.new(ids + 10_000), threads=1)
  kept = journal.Journal(planned.directory / 'journal.jsonl')
  assert kept.cost == pytest.approx(0.2) and kept.events[-1]['written'] == 0


def test_another_plans_store_is_refused(request, planned):
  ids = np.array([str(i) for i in IDS.tolist()])
  app = stores_cases.make_app('arrays', request, ids, cases.old(IDS))
  with pytest.raises(ValueError, match='None of the 200 items'):
    backfill(app, planned)
  assert set(tags(app).values()) == {None}


def test_an_embedder_that_always_fails_is_given_up(arrays, planned):
  calls = []

  def function(ids):
    calls.append(len(ids))
    raise RuntimeError('no such key')

  with pytest.raises(embedders.Broken, match='no such key'):
    backfill(arrays, planned, function, threads=1, call=100, batch=100)
  assert len(calls) < 60
  assert not journal.Journal(planned.directory / 'journal.jsonl').quarantine
