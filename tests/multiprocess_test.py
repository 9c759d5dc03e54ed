"""Real processes: two with two devices each, killed, stopped, started again."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from fastfill_jax import report

_ROOT = pathlib.Path(__file__).parent.parent
_ALIGNMENT = 'align/l2+disc+u_FastFill'
_DIGITS = (
  '--config=tests/short_config.py',
  '--config.stages=encode,embed,align,evaluate',
  '--config.run.checkpoint_every=2',
  '--config.evaluate.policies=random,sigma,gain,learnt_gain',
)
_LIMIT = 120


def _environment(devices):
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'NPROC': '16',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '
    '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true',
    'PYTHONPATH': str(_ROOT),
  }


def _start(workdir, flags, devices=4, run=_DIGITS):
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'fastfill_jax.main', *run),
      *(f'--workdir={workdir}', *flags),
    ],
    cwd=_ROOT,
    env=_environment(devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _start_pair(workdir, *flags, other=(), processes=2, run=_DIGITS):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  address = f'--coordinator_address=localhost:{port}'
  return [
    _start(
      workdir,
      (address, '--num_processes=2', f'--process_id={i}', *flags, *more),
      devices=2,
      run=run,
    )
    for i, more in enumerate(((), other)[:processes])
  ]


def _finish(*processes, code=0):
  outputs = []
  for process in processes:
    try:
      outputs.append(process.communicate(timeout=_LIMIT)[0])
    except subprocess.TimeoutExpired:
      for each in processes:
        each.kill()
      raise
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == code, output
  return outputs


def _results(workdir):
  results = {}
  for path in sorted(pathlib.Path(workdir).glob('evaluate/*/*/result.json')):
    result = report.Result.load(path.parent)
    results[result.alignment] = result.curves['mAP']
  assert list(results) == ['l2+disc+u (FastFill)']
  return results


def _wait_for(condition, process):
  deadline = time.monotonic() + _LIMIT
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """Two processes of which one is killed in the middle; then both again."""
  workdir = tmp_path_factory.mktemp('pair')
  processes = _start_pair(workdir)
  saved = f'{_ALIGNMENT}/seed0-*/checkpoints/2'
  _wait_for(lambda: list(workdir.glob(saved)), processes[0])
  processes[1].kill()
  # The other one is waiting for it: started again, both are.
  processes[0].kill()
  for process in processes:
    process.communicate()
  assert not list(workdir.glob('evaluate/*FastFill*/*/done'))
  outputs = _finish(*_start_pair(workdir))
  return workdir, outputs


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  """One process, stopped by SIGTERM in the middle; again with half its devices.

  So the pair's topology is that of neither half of this run.
  """
  workdir = tmp_path_factory.mktemp('single')
  process = _start(workdir, ())
  saved = 'encode/new/seed0-*/checkpoints/2'
  _wait_for(lambda: list(workdir.glob(saved)), process)
  process.send_signal(signal.SIGTERM)
  stopped = _finish(process, code=75)[0]
  return workdir, stopped, _finish(_start(workdir, (), devices=2))[0]


def test_sigterm_saves_and_a_restart_on_fewer_devices_continues(single):
  _, stopped, output = single
  assert '4 x cpu' in stopped
  assert 'Start again to continue' in stopped
  assert '2 x cpu' in output
  assert 'new: resumes after step' in output


def test_two_processes_equal_one(pair, single):
  ours, theirs = _results(pair[0]), _results(single[0])
  for name, curve in theirs.items():
    np.testing.assert_allclose(ours[name], curve, atol=2e-3, err_msg=name)


def test_a_killed_pair_resumes_and_one_process_writes(pair):
  _, (first, second) = pair
  assert 'resumes after step' in first + second
  assert '2 process(es)' in first


def test_processes_of_different_configs_stop_together(tmp_path):
  processes = _start_pair(tmp_path, other=('--config.align.num_epochs=3',))
  for output in _finish(*processes, code=1):
    assert 'another config or code' in output


def test_data_that_one_process_lacks_stops_both(tmp_path):
  image = tmp_path / 'data/train/a/0.png'
  image.parent.mkdir(parents=True)
  PIL.Image.new('RGB', (8, 8)).save(image)
  (tmp_path / 'data/test').symlink_to('train')
  flag = f'--config.run.data_dir={tmp_path}'
  processes = _start_pair(
    tmp_path / 'run',
    run=('--config=configs/vggface2.py', f'{flag}/data'),
    other=(f'{flag}/nowhere',),
  )
  for output in _finish(*processes, code=1):
    assert 'Process 1: ' in output
    assert f'{tmp_path}/nowhere' in output


def test_a_process_that_never_joins_is_named(tmp_path):
  (process,) = _start_pair(tmp_path, '--join_timeout=3', processes=1)
  output = process.communicate(timeout=_LIMIT)[0]
  assert process.returncode == 1, output
  assert 'Not every one of 2 processes joined within 3 s' in output
