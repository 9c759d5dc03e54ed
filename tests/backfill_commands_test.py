"""The commands from a shell's view: output, exit codes, secrets, signals."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import backfill_cases as cases
import numpy as np
import pytest
import stores_cases

from fastfill_jax.backfill import __main__ as backfill
from fastfill_jax.backfill import commands
from fastfill_jax.storage import cluster
from fastfill_jax.stores import shards

N = 120
IDS = np.arange(N) + 5
EMBEDDER = '--embedder=backfill_cases:embedder'


@pytest.fixture(params=stores_cases.KINDS)
def app(request):
  if request.param in stores_cases.QDRANTS:
    pytest.skip('its local mode is for one process and one client')
  return stores_cases.make_app(request.param, request, IDS, cases.old(IDS))


@pytest.fixture
def arrays(request):
  return stores_cases.make_app('arrays', request, IDS, cases.old(IDS))


@pytest.fixture
def planned(tmp_path):
  return cases.write_plan(tmp_path / 'plan', IDS)


@pytest.fixture
def call(planned, capsys):
  """Runs a command on an app; (exit code, what it printed, errors)."""

  def run(app, name, *args, with_plan=True):
    names = app.names
    flags = [f'--table={names.table}', f'--field={names.field}']
    if with_plan:
      flags.append(f'--plan={planned}')
    code = backfill.main([name, f'--store={app.url}', *flags, *args])
    printed = capsys.readouterr()
    return code, printed.out, printed.err

  return run


def test_a_backfill_from_first_to_last(app, call, tmp_path):
  """Every command, in the order in which one would call them."""
  code, out, _ = call(app, 'prepare', '--dry-run', '--json')
  assert code == 0 and json.loads(out)['done']
  assert call(app, 'prepare')[0] == 0
  assert call(app, 'prepare', '--json')[1].startswith('{"done": []')

  code, out, _ = call(
    app, 'apply', '--dry-run', '--json', '--price=100', '--until=50%'
  )
  expected = {'align': N, 'embed': N // 2, 'cost': pytest.approx(N * 0.05)}
  dry = json.loads(out)
  assert code == 0 and {key: dry[key] for key in expected} == expected
  assert dry['forecast']['overtakes_at'] == 0.25
  with contextlib.closing(app.open()) as store:
    assert store.counts() == {None: N}  # nothing was written

  code, out, _ = call(app, 'cutover', '--check')
  assert code == 1 and f'{N} items' in out

  assert call(app, 'apply', EMBEDDER, '--until=10%', '--price=1')[0] == 0
  code, out, _ = call(app, 'cutover', '--json')
  # The forecast says 0.44, the old model has 0.5.
  assert code == 1 and not json.loads(out)['done'] and '25%' in out
  assert call(app, 'apply', EMBEDDER, '--until=quality 0.8')[0] == 0
  status = json.loads(call(app, 'status', '--json')[1])
  # 0.8 of the end's 0.8 is 0.64, at 60%.
  assert status['new'] == 72 and status['share'] == 0.6
  assert status['forecast']['value'] == pytest.approx(0.64)
  assert status['counts'] == {cases.NEW: 72, cases.ALIGNED: 48}
  assert status['cost'] == pytest.approx(0.012)

  code, out, _ = call(app, 'verify', EMBEDDER, '--json')
  assert code == 0 and json.loads(out)['good'], out
  assert call(app, 'cutover')[0] == 0
  with contextlib.closing(app.open()) as store:
    assert store.describe().serving == 'new'
  code, out, _ = call(app, 'rollback', with_plan=False)
  assert code == 0 and 'rolled back' in out
  assert call(app, 'apply', EMBEDDER)[0] == 0
  assert call(app, 'cutover')[0] == 0
  code, _, err = call(app, 'cleanup', with_plan=False)
  assert code == 2 and '--yes' in err
  assert call(app, 'cleanup', '--yes', with_plan=False)[0] == 0


@pytest.mark.slow
def test_qdrant_in_a_folder(call, tmp_path):
  qdrant_client = pytest.importorskip('qdrant_client')
  folder = tmp_path / 'qdrant'
  client = qdrant_client.QdrantClient(path=str(folder))
  stores_cases.Qdrant(IDS, cases.old(IDS), client)
  client.close()
  app = stores_cases.App()
  app.url = f'qdrant:{folder}'
  assert call(app, 'prepare')[0] == 0
  assert call(app, 'apply', EMBEDDER, '--until=50%')[0] == 0
  assert call(app, 'apply', EMBEDDER)[0] == 0
  assert call(app, 'verify', EMBEDDER)[0] == 0
  cases.check_state(app.state())
  assert call(app, 'cutover')[0] == 0
  status = json.loads(call(app, 'status', '--json')[1])
  assert status['serving'] == 'new' and status['counts'] == {cases.NEW: N}
  assert call(app, 'rollback', with_plan=False)[0] == 0
  assert call(app, 'cleanup', '--yes', with_plan=False)[0] == 0


def test_status_as_a_page(app, call, planned, tmp_path):
  call(app, 'prepare')
  call(app, 'apply', EMBEDDER, '--until=50%')
  probe = tmp_path / 'probe'
  label = np.arange(N) % 7
  shards.write(probe / 'query', cases.new(IDS[:20]))
  shards.write(probe / 'label', label[:20])
  shards.write(probe / 'gallery_label', label)
  page = tmp_path / 'status.html'
  code, out, _ = call(app, 'status', f'--html={page}', f'--probe={probe}')
  assert code == 0 and '60 of 120 (50.0%)' in out and 'recall@10' in out
  text = page.read_text()
  assert '<svg' in text and 'src=' not in text and 'http' not in text


def test_what_a_page_shows_is_escaped():
  from fastfill_jax.backfill import page

  status = {
    'store': '<script>', 'serving': 'old', 'warnings': [], 'items': 0,
    'counts': {'<b>': 1}, 'new': 0, 'aligned': 0, 'missing': 0,
    'newcomers': 0, 'deleted': 0, 'share': 0.0, 'items_per_second': None,
    'seconds_left': None, 'cost': 0.0, 'cost_left': None,
    'failed': {'<i>': '<script>'}, 'forecast': None, 'probe': None,
  }  # fmt: skip
  text = page.document(status, None)
  assert '<script>' not in text and '<b>' not in text and '<i>' not in text


def test_probe_measures_the_live_store(arrays, call, planned, tmp_path):
  call(arrays, 'prepare')
  call(arrays, 'apply', EMBEDDER)
  probe = tmp_path / 'probe'
  shards.write(probe / 'query', cases.new(IDS[:20]))
  # Every item its own class: the query finds itself; three are mislabelled.
  label = IDS[:20].copy()
  label[:3] = 0
  shards.write(probe / 'label', label)
  shards.write(probe / 'gallery_label', IDS)
  out = call(arrays, 'status', '--json', f'--probe={probe}')[1]
  expected = {'queries': 20, 'cmc@1': 17 / 20, 'recall@10': 1.0}
  found = json.loads(out)['probe']
  assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_verify_finds_a_wrong_embedding(arrays, call):
  call(arrays, 'prepare')
  call(arrays, 'apply', EMBEDDER, '--until=50%')
  state = arrays.state()
  victims = [i for i, (tag, _) in state.items() if tag == cases.ALIGNED]
  arrays.write_new(victims[:1], cases.new([77]), cases.ALIGNED)
  code, out, _ = call(arrays, 'verify')
  assert code == 1 and f'differ from the plan, {victims[0]}' in out
  victims = [i for i, (tag, _) in state.items() if tag == cases.NEW]
  arrays.write_new(victims, cases.new(np.array(victims), 1), cases.NEW)
  code, out, _ = call(arrays, 'verify', EMBEDDER, '--json')
  checks = {line['check']: line['good'] for line in json.loads(out)['checks']}
  assert code == 1 and not checks['new'] and checks['search']


def test_embedded_elsewhere(arrays, call, tmp_path):
  call(arrays, 'prepare')
  out = tmp_path / 'todo'
  code, _, _ = call(arrays, 'export-ids', '--share=0.25', f'--out={out}')
  ids = shards.ShardedArray(out / 'id')[:]
  planned_ids = IDS[shards.ShardedArray(tmp_path / 'plan' / 'order')[:]]
  np.testing.assert_array_equal(ids, planned_ids[: N // 4])
  shards.write(out / 'vector', cases.new(ids))
  code, _, _ = call(arrays, 'apply', f'--vectors={out}')
  # All of the folder is written, the rest waits.
  assert code == 1
  state = arrays.state()
  assert {i for i in state if state[i][0] == cases.NEW} == set(ids.tolist())
  cases.check_state(state)
  rest = tmp_path / 'rest'
  call(arrays, 'export-ids', f'--out={rest}')
  assert len(shards.ShardedArray(rest / 'id')) == N - N // 4


def test_embedded_from_a_folder(tmp_path, planned, monkeypatch, capsys):
  monkeypatch.setattr(commands, '_ROWS', 50)
  shards.write(tmp_path / 'todo' / 'id', IDS)
  asked = []

  def embedder(ids):
    asked.extend(ids.tolist())
    if 33 in ids:
      raise RuntimeError('cannot')
    return cases.new(ids)

  monkeypatch.setattr(cases, 'embedder', embedder)
  flags = [f'--plan={planned}', f'--ids={tmp_path / "todo"}', '--json']
  assert backfill.main(['embed', *flags, EMBEDDER]) == 1
  assert json.loads(capsys.readouterr().out) == {'ids': N, 'failed': 1}
  vectors = shards.ShardedArray(tmp_path / 'todo' / 'vector')[:]
  good = IDS != 33
  np.testing.assert_array_equal(vectors[good], cases.new(IDS[good]))
  assert not vectors[~good].any()

  # What is there is not asked for again.
  (tmp_path / 'todo' / 'vector' / '00001.npy').unlink()
  asked.clear()
  backfill.main(['embed', *flags, EMBEDDER])
  assert set(asked) == set(IDS[50:100].tolist())
  capsys.readouterr()
  assert backfill.main(['embed', *flags, '--embedder=nothing:at_all']) == 2
  assert 'names nothing' in capsys.readouterr().err


def test_without_ray_it_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(ValueError, match=r'fastfill_jax\[ray\]'):
    cluster.over(lambda shard: None, [0], by_ray=True)


@pytest.mark.parametrize(
  'args, message',
  [
    ([], 'is needed'),
    (['--embedder=backfill_cases'], 'package.module:function'),
    (['--embedder=backfill_cases:nothing'], 'names nothing'),
    (['--embedder=backfill_cases:NEW_DIM'], 'not callable'),
    ([EMBEDDER, '--until=lots'], 'none of 30%'),
    ([EMBEDDER, '--until=120%'], 'none of 30%'),
    ([EMBEDDER, '--until=$5'], '--price'),
    ([EMBEDDER, '--until=quality 2'], 'No share'),
    ([EMBEDDER, '--items=fast'], 'no rate'),
    ([EMBEDDER, '--batch=0'], 'not positive'),
  ],
)
def test_wrong_arguments_write_nothing(arrays, call, args, message):
  call(arrays, 'prepare')
  code, _, err = call(arrays, 'apply', *args)
  assert code == 2 and message in err
  assert set(arrays.state().values()) == {(None, None)}


def test_apply_needs_prepare_and_one_plan(arrays, call, planned):
  code, _, err = call(arrays, 'apply', EMBEDDER)
  assert code == 2 and 'prepare the store first' in err
  call(arrays, 'prepare')
  call(arrays, 'apply', EMBEDDER, '--until=10%')
  order = shards.ShardedArray(planned / 'order')[:]
  shards.write(planned / 'order', order[::-1].copy())
  code, _, err = call(arrays, 'apply', EMBEDDER)
  assert code == 2 and 'belongs to plan' in err


def test_passwords_are_refused_and_never_shown(call, capsys, planned):
  app = stores_cases.App()
  app.url = 'postgresql://me:hunter2@nowhere.invalid/db'
  code, out, err = call(app, 'status')
  assert code == 2 and 'hunter2' not in out + err and '***' in err


def test_passwords_from_the_environment(call, monkeypatch):
  app = stores_cases.App()
  pytest.importorskip('psycopg')
  monkeypatch.setenv('URL', 'postgresql://me:hunter2@/db?host=/nowhere')
  app.url = 'env:URL'
  code, out, err = call(app, 'status')
  assert code == 2 and 'hunter2' not in out + err and '/nowhere' in err


def start(app, planned, *args):
  """A worker as a process of its own."""
  tests = pathlib.Path(__file__).parent
  return subprocess.Popen(
    [
      sys.executable, '-m', 'fastfill_jax.backfill', 'apply',
      f'--store={app.url}', f'--table={app.names.table}',
      f'--field={app.names.field}', f'--plan={planned}', *args,
    ],
    cwd=tests.parent,
    env={**os.environ, 'PYTHONPATH': str(tests)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


def test_sigterm_ends_after_the_batch_and_the_call_goes_on(
  arrays, call, planned
):
  call(arrays, 'prepare')
  args = [EMBEDDER, '--batch=10', '--call=5', '--items=100/s']
  process = start(arrays, planned, *args)
  journal = planned / 'journal.jsonl'
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    if journal.exists() and '"batch"' in journal.read_text():
      break
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 75, (out, err)
  assert 'stopping after' in err
  state = arrays.state()
  cases.check_state(state)
  done = [i for i in state if state[i][0] == cases.NEW]
  assert 0 < len(done) < N
  assert call(arrays, 'apply', EMBEDDER)[0] == 0
  assert {tag for tag, _ in arrays.state().values()} == {cases.NEW}
