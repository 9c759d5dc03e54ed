"""The launch scripts against stand-ins for Python, SLURM and main."""

import os
import pathlib
import subprocess
import sys
import time

import launch_machine
import pytest
from launch_machine import REPOSITORY, commands

SCRIPTS = [
  *sorted(REPOSITORY.glob('launch/*.sh')),
  REPOSITORY / 'launch/slurm.sbatch',
  REPOSITORY / '.ci/run',
]
CONFIG = '--config=configs/imagenet.py'
INSTALL = '-m pip install --quiet --disable-pip-version-check --editable'


@pytest.fixture
def machine(tmp_path):
  machine = launch_machine.Machine(tmp_path)
  machine.install_python('python3.12')
  return machine


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
  shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
  for command in (['bash', '-n'], [shellcheck]):
    done = subprocess.run(
      [*command, script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
  ('script', 'variables'),
  [
    (
      'tpu_vm.sh',
      'NAME ZONE ACCELERATOR_TYPE RUNTIME_VERSION PROJECT QUEUED SPOT '
      'CREATE_FLAGS SSH_FLAGS WORKDIR BUCKET MOUNT SETUP_COMMAND RESULTS POLL '
      'MAX_FAILURES',
    ),
    ('slurm.sbatch', 'NODES GPUS CPUS TIME GRACE SBATCH_FLAGS EXTRAS'),
    ('gpu.sh', 'GPUS MEMORY_FRACTION EXTRAS'),
    ('worker.sh', 'BUCKET MOUNT SETUP_COMMAND GRACE EXTRAS'),
    ('setup.sh', 'PYTHON VENV EXTRAS'),
  ],
)
def test_every_variable_is_described_on_top(script, variables):
  text = (REPOSITORY / 'launch' / script).read_text()
  comment, _, code = text.partition('\n\n')
  for variable in variables.split():
    assert f'{variable} ' in comment or f'{variable},' in comment, variable
    assert script == 'setup.sh' or variable in code, variable


def test_local_installs_once_and_runs_the_digits(machine):
  python = machine.python
  code, _, _, calls = machine.run('launch/local.sh', '--workdir=runs/a b')
  assert code == 0
  assert [call[1:] for call in calls if '-c' not in call] == commands(
    f'-m venv --clear {machine.root}/.venv',
    f'{INSTALL} {machine.root}',
    "-m fastfill_jax.main --config=configs/digits.py '--workdir=runs/a b'",
  )
  run = commands(f'python -m fastfill_jax.main {CONFIG} --config.seed=1')
  arguments = ('launch/local.sh', CONFIG, '--config.seed=1')
  assert machine.run(*arguments)[3] == run
  # Another list of packages: installed again, into the same environment.
  with (machine.root / 'requirements.txt').open('a') as file:
    file.write('another\n')
  install = commands(f'python {INSTALL} {machine.root}')
  assert machine.run(*arguments)[3] == install + run
  assert machine.run(*arguments)[3] == run
  # Half an environment is made again.
  pathlib.Path(python).with_name('pip').unlink()
  assert machine.run(*arguments)[3][-3:] == (
    commands(f'python3.12 -m venv --clear {machine.root}/.venv') + install + run
  )


def test_test_script_installs_its_extra(machine):
  assert machine.run('launch/local.sh')[0] == 0
  _, _, _, calls = machine.run('launch/test.sh', '-k', 'a or b', EXTRAS='tpu')
  assert calls[-2:] == commands(
    f'python {INSTALL} {machine.root}[test,tpu]',
    "python -m pytest -n 4 --dist loadfile -k 'a or b'",
  )
  # The two scripts share the environment and do not undo each other.
  assert machine.run('launch/local.sh')[0] == 0
  calls = machine.run('launch/test.sh', EXTRAS='tpu')[3]
  assert calls == commands('python -m pytest -n 4 --dist loadfile')


def test_an_override_is_not_a_config(machine):
  calls = machine.run('launch/local.sh', '--config.seed=1')[3]
  assert calls[-1][3:] == ['--config=configs/digits.py', '--config.seed=1']


@pytest.mark.parametrize(
  ('version', 'fits'),
  [((3, 10, 9), 0), ((3, 11, 0), 1), ((3, 13, 9), 1), ((3, 14, 0), 0)],
)
def test_python_versions(machine, monkeypatch, version, fits):
  calls = machine.run('launch/local.sh')[3]
  check = next(call[2] for call in calls if call[1] == '-c')
  monkeypatch.setattr(sys, 'version_info', version)
  with pytest.raises(SystemExit) as ended:
    exec(check)
  assert ended.value.code == (not fits)


def test_takes_the_newest_python_that_fits(machine):
  machine.install_python('python3', 'python3.11', 'python3.13')

  def made_with(**variables):
    (machine.root / '.venv/bin/pip').unlink(missing_ok=True)
    code, _, stderr, calls = machine.run('launch/local.sh', **variables)
    venv = [call[0] for call in calls if 'venv' in call]
    return venv[0] if code == 0 else stderr

  assert made_with() == 'python3.13'
  assert made_with(OLD='python3.13') == 'python3.12'
  assert made_with(PYTHON=str(machine.path / 'python3.11')) == 'python3.11'
  assert 'python3 is not Python 3.11, 3.12' in made_with(
    PYTHON='python3', OLD='python3'
  )
  for name in ('python3.11', 'python3.12', 'python3.13'):
    (machine.path / name).unlink()
  assert 'PYTHON=/path/to/python' in made_with(OLD='python3')


def test_gpu_names_the_devices(machine):
  arguments = ['--workdir=runs/a b']
  variables = {'GPUS': '0,1', 'MEMORY_FRACTION': '.9'}
  main = "-m fastfill_jax.main --config=configs/digits.py '--workdir=runs/a b'"
  code, stdout, _, calls = machine.run(
    'launch/gpu.sh', '--dry-run', *arguments, **variables
  )
  assert (code, calls) == (0, [])
  assert commands(*stdout.splitlines()) == commands(
    'env CUDA_VISIBLE_DEVICES=0,1 XLA_PYTHON_CLIENT_MEM_FRACTION=.9 '
    f'JAX_PLATFORMS=cuda,cpu {machine.python} {main}'
  )
  code, _, _, calls = machine.run('launch/gpu.sh', *arguments, **variables)
  assert code == 0
  assert calls[-2:] == commands(
    f'python {INSTALL} {machine.root}[cuda]', f'python {main}'
  )


def test_gpu_measures_itself(machine):
  code, stdout, _, _ = machine.run(
    'launch/gpu.sh', '--dry-run', '--benchmark', '--data_dir=d'
  )
  assert code == 0
  assert commands(*stdout.splitlines()) == commands(
    f'env JAX_PLATFORMS=cuda,cpu {machine.python} '
    '-m benchmarks.accelerator --data_dir=d'
  )


def test_slurm_submits_itself(machine):
  script = str(machine.root / 'launch/slurm.sbatch')
  arguments = [CONFIG, '--workdir=/w']
  variables = {
    'NODES': '2',
    'GPUS': '8',
    'CPUS': '12',
    'TIME': '04:00:00',
    'SBATCH_FLAGS': '--partition=p --account=a',
  }
  sbatch = (
    f'sbatch --nodes=2 --signal=TERM@180 --chdir={machine.root} '
    '--ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --time=04:00:00 '
    f'--partition=p --account=a {script} {CONFIG} --workdir=/w'
  )
  srun = (
    f'srun --kill-on-bad-exit=0 --wait=180 --cpus-per-task=12 {machine.python} '
    f'-m fastfill_jax.main --distributed {CONFIG} --workdir=/w'
  )
  code, _, _, calls = machine.run(script, *arguments, **variables)
  assert (code, calls) == (0, commands(sbatch))
  code, stdout, _, calls = machine.run(
    script, '--dry-run', *arguments, **variables
  )
  assert (code, calls) == (0, [])
  assert stdout.splitlines() == [sbatch, srun]


def test_slurm_on_cpus_and_without_a_workdir(machine):
  script = machine.root / 'launch/slurm.sbatch'
  _, _, _, calls = machine.run(script, '--workdir', '/w', GPUS='0')
  assert calls == commands(
    f'sbatch --nodes=1 --signal=TERM@180 --chdir={machine.root} '
    f'--ntasks-per-node=1 {script} --config=configs/digits.py --workdir /w'
  )
  code, _, stderr, calls = machine.run(script, CONFIG)
  assert (code, calls) == (1, [])
  assert '--workdir=DIR' in stderr


@pytest.mark.parametrize('code', [0, 1, 75])
def test_slurm_job_goes_back_into_the_queue_when_saved(machine, code):
  machine.answer(codes=str(code))
  ended, _, _, calls = machine.run(
    'launch/slurm.sbatch', CONFIG, '--workdir=/w', SLURM_JOB_ID='7', GPUS='2'
  )
  assert ended == code
  assert f'{machine.root}[cuda]' in calls[-2 - (code == 75)]
  requeue = ['scontrol requeue 7'] if code == 75 else []
  assert [c for c in calls if c[0] in ('srun', 'scontrol')] == commands(
    f'srun --kill-on-bad-exit=0 --wait=180 {machine.python} '
    f'-m fastfill_jax.main --distributed {CONFIG} --workdir=/w',
    *requeue,
  )


def test_slurm_job_on_cpus_installs_no_cuda(machine):
  machine.answer(codes='0')
  variables = {'SLURM_JOB_ID': '7', 'GPUS': '0'}
  calls = machine.run('launch/slurm.sbatch', CONFIG, **variables)[3]
  assert calls[-2] == ['python', *INSTALL.split(), str(machine.root)]


def test_worker_starts_follows_and_stops(machine):
  # Its main ends with 3 when told so, else runs until SIGTERM and saves.
  main = machine.root / '.venv/bin/python'
  main.parent.mkdir(parents=True)
  main.write_text(
    '#!/usr/bin/env bash\n'
    "trap 'echo saved; exit 75' TERM\n"
    'echo "main $*"\n'
    '[[ $3 != fail ]] || exit 3\n'
    'for _ in {1..600}; do sleep 0.1; done\n'  # never left behind
  )
  main.chmod(0o755)
  worker = 'launch/worker.sh'
  code, _, stderr, _ = machine.run(worker, 'follow')
  assert (code, 'nothing was started' in stderr) == (1, True)
  assert machine.run(worker, 'start', 'fail')[0] == 0
  code, stdout, _, _ = machine.run(worker, 'follow')
  assert (code, stdout) == (3, 'main -m fastfill_jax.main fail\n')
  assert machine.run(worker, 'start', CONFIG)[0] == 0
  code, _, stderr, _ = machine.run(worker, 'start', CONFIG)
  assert (code, 'already running' in stderr) == (0, True)
  assert not (machine.root / 'runs/worker.code').exists()
  pid = int((machine.root / 'runs/worker.pid').read_text())
  assert os.getsid(pid) != os.getsid(0)  # it outlives the connection
  log = machine.root / 'runs/worker.log'
  deadline = time.monotonic() + 30
  while CONFIG not in log.read_text() and time.monotonic() < deadline:
    time.sleep(0.05)  # its trap is set before that line
  assert machine.run(worker, 'stop')[0] == 0
  code, stdout, _, _ = machine.run(worker, 'follow')
  assert (code, stdout.splitlines()[-1]) == (75, 'saved')
  assert machine.run(worker, 'stop')[0] == 0
  code, _, stderr, _ = machine.run(worker, 'begin')
  assert (code, "unknown command 'begin'" in stderr) == (1, True)


_PARTS = ('launch/test.sh', 'launch/local.sh', '.venv/bin/python')


@pytest.mark.parametrize('failing', ['', *_PARTS])
def test_ci_fails_if_any_part_fails(machine, failing):
  for script in (*_PARTS, '.venv/bin/ruff'):
    path = machine.root / script
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
      f'#!/usr/bin/env bash\necho "5 passed"; exit {int(script == failing)}\n'
    )
    path.chmod(0o755)
  code, stdout, _, _ = machine.run('.ci/run')
  assert code == int(bool(failing))
  assert stdout.splitlines()[-1] == '5 passed'
  assert ('== failed:' in stdout) == bool(failing)
