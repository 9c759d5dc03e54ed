"""What only an accelerator shows, in one Markdown file.

  python -m benchmarks.accelerator --data_dir=DIR --minutes=8

or `launch/gpu.sh --benchmark --data_dir=DIR`: the sweep beside its products at
a gallery of 50,000, ResNet-50's training step beside PyTorch's where that is
installed, and `configs/cifar100.py:pixels32` with its ablation table. It stops
after `minutes` and exits with code 75 if something is left; called again, it
goes on from there. `--debug` is the same in a few minutes on a CPU.
"""

import datetime
import pathlib
import re
import signal
import subprocess
import sys
import time

import pandas as pd
from absl import app, flags

from fastfill_jax import parallel
from fastfill_jax.report import tables

_DATA = flags.DEFINE_string('data_dir', None, 'Where TFDS has cifar100.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/accelerator', 'Output.')
_MINUTES = flags.DEFINE_float('minutes', 8, 'Of this call, but for an end.')
_DEBUG = flags.DEFINE_bool('debug', False, 'Small sizes, made-up images.')

_DESCRIBE = 'from fastfill_jax import parallel; print(parallel.describe())'


def steps(workdir: pathlib.Path) -> dict[str, tuple[list[str], pathlib.Path]]:
  """{name: (a module and its flags, the file that it ends with)}."""
  sweep, train = workdir / 'sweep.csv', workdir / 'train_step.csv'
  trained = workdir / 'cifar100'
  sizes = ['--n=50000', '--policies=1,3']
  if _DEBUG.value:
    sizes = ['--n=300', '--policies=1', '--cutoffs=22']
  small = ['--encoder=cnn', '--image_size=32', '--steps=2', '--repeats=2']
  form = 'debug' if _DEBUG.value else 'pixels32'
  data = [f'--config.run.data_dir={_DATA.value}'] if _DATA.value else []
  return {
    'The sweep': (
      ['benchmarks.sweep', *sizes, '--backends=jax', f'--csv={sweep}'],
      sweep,
    ),
    'A training step': (
      [
        'benchmarks.train_step',
        *(small if _DEBUG.value else ['--torch_compile']),
        f'--csv={train}',
      ],
      train,
    ),
    'CIFAR-100, ResNet-18 at 32 pixels': (
      [
        'fastfill_jax.main',
        f'--config=configs/cifar100.py:{form}',
        f'--workdir={trained}',
        *data,
      ],
      trained / 'report.md',
    ),
  }


def run(arguments: list[str], log: pathlib.Path, seconds: float) -> bool:
  """Runs a module; whether it ended by itself within so many seconds."""
  with log.open('a') as file:
    process = subprocess.Popen(
      [sys.executable, '-m', *arguments], stdout=file, stderr=file
    )
    try:
      code = process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGTERM)  # A training saves first.
      try:
        process.wait(60)
      except subprocess.TimeoutExpired:
        process.kill()
      return False
  if code:
    raise SystemExit(f'{arguments[0]} exited with code {code}: see {log}.')
  return True


def markdown(workdir: pathlib.Path) -> str:
  """All that has ended so far."""
  device = subprocess.run(
    [sys.executable, '-c', _DESCRIBE], check=True, capture_output=True
  )
  name = device.stdout.decode().strip().splitlines()[-1]
  parts = [f'# {name}', str(datetime.date.today())]
  for title, (arguments, made) in steps(workdir).items():
    if not made.exists():
      continue
    parts += [f'## {title}', f'`python -m {" ".join(arguments)}`']
    if made.suffix == '.csv':
      frame = pd.read_csv(made).astype(str)
      rows = [tuple(row) for row in frame.to_numpy()]
      parts.append(tables.markdown(tables.Table(tuple(frame), 0, rows)))
    else:
      ablation = re.search(r'## Ablation\n(.*?)\n## ', made.read_text(), re.S)
      parts.append(ablation[1].strip())
  return '\n\n'.join(parts) + '\n'


def main(argv: list[str]):
  """Runs what is left, and writes the file."""
  del argv
  if not (_DATA.value or _DEBUG.value):
    raise app.UsageError('--data_dir=DIR is missing: where TFDS has cifar100.')
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  end = time.monotonic() + 60 * _MINUTES.value
  left = 0
  for title, (arguments, made) in steps(workdir).items():
    if made.exists():
      continue
    seconds = end - time.monotonic()
    print(f'{title}: {" ".join(arguments)}', flush=True)
    if seconds < 0 or not run(arguments, workdir / 'log.txt', seconds):
      left += 1
  (workdir / 'accelerator.md').write_text(markdown(workdir))
  print(f'{workdir}/accelerator.md; steps left: {left}')
  return parallel.EXIT_PREEMPTED if left else 0


if __name__ == '__main__':
  app.run(lambda argv: sys.exit(main(argv)))
