"""The worker on every store: complete, in order, idempotent, considerate."""

import contextlib
import itertools
import threading

import backfill_cases as cases
import numpy as np
import pytest
import stores_cases
from backfill_runs import IDS, N, backfill, tags

from fastfill_jax.backfill import pace, plan


@pytest.fixture(params=stores_cases.KINDS)
def app(request):
  return stores_cases.make_app(request.param, request, IDS, cases.old(IDS))


@pytest.fixture
def arrays(request):
  return stores_cases.make_app('arrays', request, IDS, cases.old(IDS))


@pytest.fixture
def planned(tmp_path):
  return plan.Plan(cases.write_plan(tmp_path / 'plan', IDS))


def test_backfills_everything(app, planned):
  reason, one, kept = backfill(app, planned)
  assert (reason, one.written, one.lost) == ('complete', N, 0)
  state = app.state()
  assert len(state) == N and {s for s, _ in state.values()} == {cases.NEW}
  cases.check_state(state)
  assert kept.cost == pytest.approx(N * 0.01)
  # Again: nothing is left, nothing is embedded.
  reason, one, _ = backfill(app, planned, function=None)
  assert (reason, one.written) == ('complete', 0)


def test_stops_where_told_in_the_plans_order(app, planned):
  for share in (0.1, 0.35, 0.5):
    until = pace.Until(items=round(share * N))
    reason, _, _ = backfill(app, planned, until=until)
    assert reason == 'until'
    state = app.state()
    cases.check_state(state)
    found = {i for i, (space, _) in state.items() if space == cases.NEW}
    first = planned.ids[planned.order[: round(share * N)]]
    assert found == set(first.tolist())
    assert len(state) == N


def test_without_its_journal_it_goes_on_all_the_same(app, planned):
  backfill(app, planned, until=pace.Until(items=90))
  (planned.directory / 'journal.jsonl').unlink()
  asked = []

  def function(ids):
    asked.extend(ids.tolist())
    return cases.new(ids)

  reason, _, _ = backfill(app, planned, function)
  assert reason == 'complete'
  assert sorted(asked) == sorted(planned.ids[planned.order[90:]].tolist())


def test_a_budget_is_never_exceeded(arrays, planned):
  # 1 cent an item; the budget counts what earlier calls paid.
  for budget, items in ((0.155, 15), (0.155, 15), (0.5, 50)):
    until = pace.Until(dollars=budget)
    reason, _, kept = backfill(arrays, planned, until=until)
    assert reason == 'until'
    assert kept.cost == pytest.approx(items * 0.01)
    assert list(tags(arrays).values()).count(cases.NEW) == items


def test_ends_by_the_clock(arrays, planned):
  until = pace.Until(seconds=-1.0)
  reason, one, _ = backfill(arrays, planned, until=until)
  assert (reason, one.written) == ('until', 0)
  assert set(tags(arrays).values()) == {cases.ALIGNED}


def test_a_stop_writes_what_is_in_flight(app, planned):
  stop = threading.Event()
  asked = []

  def function(ids):
    asked.append(ids.tolist())
    if len(asked) == 4:
      stop.set()
    return cases.new(ids)

  reason, one, _ = backfill(
    app, planned, function, stop=stop, threads=1, call=20
  )
  assert reason == 'stopped'
  found = {i for i, tag in tags(app).items() if tag == cases.NEW}
  assert found == set(itertools.chain(*asked))
  assert one.written == len(found) < N
  cases.check_state(app.state())


def test_leaves_others_items_alone(app, planned):
  """Deleted, changed and newer items, while their batch is embedded."""
  first = planned.ids[planned.order[:20]].tolist()
  deleted, changed, newer = first[0], first[1], first[2]
  once = []

  def function(ids):
    if not once:
      once.append(ids)
      app.delete([deleted])
      app.change([changed], cases.old([changed], 1))
      app.write_new([newer], cases.new([newer], 2), 'new:other')
    return cases.new(ids)

  if isinstance(app, stores_cases.Qdrant):
    pytest.skip('its local mode is for one thread')
  reason, one, _ = backfill(
    app, planned, function, threads=1, left=['new:other']
  )
  state = app.state()
  assert deleted not in state and len(state) == N - 1
  assert state[newer][0] == 'new:other'
  assert one.lost == 3
  # Without an aligner a changed item is embedded at once.
  assert reason == 'complete' and state[changed][0] == cases.NEW
  changes = {newer: 2}
  cases.check_state(state, changes)


def test_newcomers_are_aligned_and_join_the_order(app, planned):
  backfill(app, planned, until=pace.Until(items=50))
  newcomers = [1000, 1001, 1002]
  app.insert(newcomers, cases.old(newcomers))
  app.change([IDS[3]], cases.old([IDS[3]], 1))
  reason, _, _ = backfill(
    app, planned, until=pace.Until(items=60), aligner=cases.aligner
  )
  state = app.state()
  assert reason == 'until'
  assert all(state[i][0] == cases.ALIGNED for i in newcomers)
  cases.check_state(state, {int(IDS[3]): 1})
  asked = []

  def function(ids):
    asked.extend(ids.tolist())
    changed = ids == IDS[3]
    return np.where(changed[:, None], cases.new(ids, 1), cases.new(ids))

  reason, _, _ = backfill(
    app, planned, function, aligner=cases.aligner, threads=1
  )
  state = app.state()
  assert reason == 'complete'
  assert {s for s, _ in state.values()} == {cases.NEW}
  cases.check_state(state, {int(IDS[3]): 1})
  # Last, by their scores.
  _, scores = cases.align(cases.old(newcomers))
  expected = [newcomers[i] for i in np.argsort(-scores)]
  assert asked[-3:] == expected


def test_newcomers_during_the_run_are_caught_up(arrays, planned):
  """The old pipeline inserts while the last batches are embedded."""
  calls = itertools.count()

  def function(ids):
    n = next(calls)
    if n < 60 and n % 3 == 0:
      with contextlib.closing(arrays.open()) as store:
        store.put([2000 + n], cases.old([2000 + n]))
    return cases.new(ids)

  reason, _, _ = backfill(
    arrays, planned, function, aligner=cases.aligner, catch_up=0.0
  )
  state = arrays.state()
  assert reason == 'complete'
  assert len(state) > N and {s for s, _ in state.values()} == {cases.NEW}
  cases.check_state(state)


def test_an_item_that_came_back_is_not_given_the_plans_embedding(app, planned):
  backfill(app, planned, until=pace.Until(items=0))
  i = int(planned.ids[planned.order[-1]])
  app.delete([i])
  app.insert([i], cases.old([i], 1))
  backfill(app, planned, until=pace.Until(items=1), aligner=cases.aligner)
  state = app.state()
  assert state[i][0] == cases.ALIGNED
  cases.check_state(state, {i: 1})


@pytest.mark.parametrize('kind', ['arrays', 'postgres'])
def test_an_item_that_changes_again_is_embedded_again(kind, request, planned):
  """Its tag is the same before and after; only its revision tells."""
  app = stores_cases.make_app(kind, request, IDS, cases.old(IDS))
  backfill(app, planned, until=pace.Until(items=0))
  i, change = int(IDS[3]), [1]
  app.change([i], cases.old([i], 1))

  def function(ids):
    x = np.where((ids == i)[:, None], cases.new(ids, change[0]), cases.new(ids))
    if i in ids and change[0] == 1:
      change[0] = 2
      app.change([i], cases.old([i], 2))
    return x

  reason, one, _ = backfill(app, planned, function)
  assert (reason, one.lost) == ('complete', 1)
  cases.check_state(app.state(), {i: 2})


def test_unknown_tags_are_refused_adopted_or_left(app, planned):
  with contextlib.closing(app.open()) as store:
    store.prepare(cases.NEW_DIM, 'cosine')
    x = cases.new(IDS[:30], 5)
    store.write(IDS[:10], x[:10], 'aligned:before', only_if=None)
    store.write(IDS[10:30], x[10:], 'new:other', only_if=None)
  with pytest.raises(ValueError, match=r"'aligned:before' \(10\)"):
    backfill(app, planned)
  assert list(tags(app).values()).count(None) == N - 30
  reason, _, _ = backfill(
    app, planned, adopted=['aligned:before'], left=['new:other']
  )
  state = app.state()
  assert reason == 'complete'
  assert [state[i][0] for i in IDS[:10].tolist()] == [cases.NEW] * 10
  assert [state[i][0] for i in IDS[10:30].tolist()] == ['new:other'] * 20


def test_ids_as_strings(request, tmp_path):
  ids = np.array([f'item "{i}" ü' for i in range(40)])
  app = stores_cases.make_app('arrays', request, ids, cases.old(ids))
  planned = plan.Plan(cases.write_plan(tmp_path / 'p', ids))
  assert backfill(app, planned)[0] == 'complete'
  app.insert(['new ' + 30 * 'one'], cases.old(['x']))
  assert backfill(app, planned)[0] == 'complete'
  assert set(tags(app).values()) == {cases.NEW}


def test_only_one_worker_of_a_table(request, planned):
  app = stores_cases.make_app('postgres', request, IDS, cases.old(IDS))
  with (
    contextlib.closing(app.open()) as store,
    store.lock(),
    pytest.raises(ValueError, match='Another backfill'),
  ):
    backfill(app, planned)
  assert backfill(app, planned)[0] == 'complete'


def test_only_one_worker_of_a_journal(arrays, planned):
  def other(ids):
    with pytest.raises(ValueError, match='Another backfill writes'):
      backfill(arrays, planned)
    return cases.new(ids)

  assert backfill(arrays, planned, other)[0] == 'complete'


def test_two_workers_do_no_harm(arrays, planned):
  """Where nothing keeps a second one out."""

  def other(ids):
    backfill(arrays, planned, journal='other')
    return cases.new(ids)

  reason, one, _ = backfill(arrays, planned, other, threads=1, call=20)
  assert reason == 'complete'
  assert one.written + one.lost >= 20 and one.lost > 0
  cases.check_state(arrays.state())


def test_the_cut_over_and_back_may_come_in_the_middle(request, planned):
  app = stores_cases.make_app('postgres', request, IDS, cases.old(IDS))
  calls = itertools.count()

  def function(ids):
    n = next(calls)
    with contextlib.closing(app.open()) as store:
      if n == 3:
        store.cut_over()
      if n == 12:
        store.roll_back()
    return cases.new(ids)

  assert backfill(app, planned, function)[0] == 'complete'
  cases.check_state(app.state())
  with contextlib.closing(app.open()) as store:
    items = store.read(IDS, 'old')
  np.testing.assert_allclose(items.vectors, cases.old(items.ids), atol=1e-6)
