"""Any interference of other writers, against a model of what should be."""

import itertools
import pathlib
import shutil
import tempfile

import backfill_cases as cases
import backfill_runs as workers
import hypothesis
import numpy as np
import pytest
import stores_cases
from hypothesis import stateful
from hypothesis import strategies as st

from fastfill_jax.backfill import pace, plan

N = 24
IDS = np.arange(N) + 5
ACTIONS = ('insert', 'change', 'delete', 'renew')
# What, and to which of the items that are there.
actions = st.lists(
  st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10**6)),
  min_size=1,
  max_size=4,
)


class Machine(stateful.RuleBasedStateMachine):
  """Backfills a bit, interferes, in between or while items are embedded.

  The model: which items exist, and how often each one's content changed. An
  embedding is right if it is of the present content; every item that exists
  has one whenever a worker is done.
  """

  make_app = None

  def __init__(self):
    super().__init__()
    self.tmp = pathlib.Path(tempfile.mkdtemp())
    self.app = self.make_app(self.tmp)
    self.plan = plan.Plan(cases.write_plan(self.tmp / 'plan', IDS))
    self.changes = dict.fromkeys(IDS.tolist(), 0)
    self.gone = {}
    self.fresh = itertools.count(1000)
    self.backfill(0, [])

  def act(self, name, which):
    ids = sorted(self.changes)
    if name == 'insert':
      # Half of them come back under an id that was deleted.
      back = sorted(self.gone)
      i = back[which % len(back)] if back and which % 2 else next(self.fresh)
      self.changes[i] = self.gone.pop(i, -1) + 1
      self.app.insert([i], cases.old([i], self.changes[i]))
    elif ids:
      i = ids[which % len(ids)]
      if name == 'delete':
        self.gone[i] = self.changes.pop(i)
        self.app.delete([i])
      elif name == 'change':
        self.changes[i] += 1
        self.app.change([i], cases.old([i], self.changes[i]))
      elif name == 'renew':
        x = cases.new([i], self.changes[i])
        self.app.write_new([i], x, cases.NEW)

  def backfill(self, items, amid, aligner=cases.aligner):
    amid = list(amid)

    def function(ids):
      # From what the items hold now; then the world goes on.
      x = np.concatenate(
        [cases.new([i], self.changes.get(i, 0)) for i in ids.tolist()]
      )
      while amid:
        self.act(*amid.pop())
      return x

    return workers.backfill(
      self.app,
      self.plan,
      function,
      until=pace.Until(items=items),
      aligner=aligner,
      threads=1,
      batch=5,
      call=5,
    )

  @stateful.rule(amid=actions)
  def interfere(self, amid):
    for action in amid:
      self.act(*action)

  @stateful.rule(more=st.integers(0, 12), amid=actions)
  def backfill_more(self, more, amid):
    tags = [tag for tag, _ in self.app.state().values()]
    self.backfill(tags.count(cases.NEW) + more, amid)

  @stateful.rule(amid=actions, aligned=st.booleans())
  def backfill_to_the_end(self, amid, aligned):
    reason, _, _ = self.backfill(None, amid, cases.aligner if aligned else None)
    assert reason == 'complete'
    tags = {tag for tag, _ in self.app.state().values()}
    assert tags <= {cases.NEW}

  @stateful.invariant()
  def what_is_there_is_right(self):
    state = self.app.state()
    assert set(state) == set(self.changes)
    cases.check_state(state, self.changes)

  def teardown(self):
    if hasattr(self.app, 'close'):
      self.app.close()
    shutil.rmtree(self.tmp)


def run(make_app, examples):
  class Case(Machine):
    pass

  Case.make_app = staticmethod(make_app)
  settings = hypothesis.settings(
    max_examples=examples,
    stateful_step_count=8,
    deadline=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
  )
  stateful.run_state_machine_as_test(Case, settings=settings)


def test_arrays():
  run(lambda tmp: stores_cases.Arrays(tmp, IDS, cases.old(IDS)), 8)


def _run_postgres(request, examples):
  pytest.importorskip('pgvector')
  url = request.getfixturevalue('postgres').url
  run(lambda tmp: stores_cases.Postgres(url, IDS, cases.old(IDS)), examples)


def test_postgres(request):
  _run_postgres(request, 3)


@pytest.mark.slow
def test_postgres_at_length(request):
  _run_postgres(request, 20)


@pytest.mark.slow
def test_lance():
  pytest.importorskip('lancedb')
  run(lambda tmp: stores_cases.Lance(tmp, IDS, cases.old(IDS)), 8)
