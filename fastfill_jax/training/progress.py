"""What a run says while it runs: metric files and progress bars.

Nothing here touches a device: callers hand over plain numbers.
"""

import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import rich.console
import rich.progress
from absl import logging

from fastfill_jax.storage import artifact

if TYPE_CHECKING:
  import pandas as pd

T = TypeVar('T')


class Logger:
  """Appends metrics to metrics.jsonl, `path`, and to TensorBoard's files.

  Both lie in `directory`/`name`, so that `tensorboard --logdir=directory`
  shows each name as a run. A resumed run forgets what was logged after the
  step it resumes at; log a step's metrics before saving its checkpoint, and a
  killed run's file has the lines of an uninterrupted one.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    name: str,
    *,
    start_step: int = 0,
    enabled: bool = True,
  ):
    """Opens the files, dropping lines after `start_step`; 0 drops all.

    Nothing is written where not enabled: on all but the main process.

    Raises:
      ValueError: The file is damaged elsewhere than in its last line.
    """
    self.path = pathlib.Path(directory) / name / 'metrics.jsonl'
    self._file = self._board = None
    if not enabled:
      return
    import tensorboardX

    self.path.parent.mkdir(parents=True, exist_ok=True)
    _keep(self.path, start_step)
    self._file = self.path.open('a', encoding='utf-8')
    self._board = tensorboardX.SummaryWriter(
      str(self.path.parent),
      purge_step=start_step + 1,
      # Else a file of the same second is written over.
      filename_suffix=f'.{start_step}',
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs numbers after so many steps; one that is not finite becomes null.

    Raises:
      ValueError: A metric is called 'step' or 'time'.
    """
    if taken := {'step', 'time'} & set(metrics):
      raise ValueError(f'{sorted(taken)} cannot be the name of a metric.')
    if self._file is None:
      return
    line = {'step': int(step), 'time': time.time()}
    for name, number in metrics.items():
      value = float(number)
      line[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()

  def __enter__(self) -> 'Logger':
    return self

  def __exit__(self, *_) -> None:
    if self._file is not None:
      self._file.close()
      self._board.close()


def read(path: str | os.PathLike[str]) -> 'pd.DataFrame':
  """A metrics.jsonl: a row per line, with columns step, time and the metrics.

  NaN where a line lacks a metric or it was not finite; a last line cut short by
  a kill is left out.

  Raises:
    ValueError: A line other than the last is damaged.
  """
  import pandas as pd

  rows = [row for _, row in _lines(pathlib.Path(path))]
  frame = pd.DataFrame(rows, columns=None if rows else ['step', 'time'])
  values = frame.columns.difference(['step'], sort=False)
  return frame.astype(dict.fromkeys(values, float) | {'step': int})


def bar(
  items: Iterable[T],
  description: str,
  *,
  total: int | None = None,
  done: int = 0,
  unit: str = 'steps',
  seconds: float = 30.0,
  enabled: bool = True,
) -> Iterator[T]:
  """Passes items on, showing how many are through, the rate and the time left.

  In a terminal that is a progress bar, elsewhere a log line every so many
  seconds; where not enabled, on all but the main process, nothing. `done` items
  of an earlier run count as done but not as speed; `total` has them too, and is
  by default `done` and those in `items`.
  """
  if total is None:
    total = done + len(items)
  console = rich.console.Console(stderr=True)
  if not enabled:
    yield from items
  elif console.is_terminal:
    yield from _draw(items, description, total, done, unit, console)
  else:
    yield from _log(items, description, total, done, unit, seconds)


def _draw(items, description, total, done, unit, console):
  columns = (
    rich.progress.TextColumn('{task.description}', markup=False),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    _Rate(unit),
    rich.progress.TimeRemainingColumn(),
  )
  handler = logging.get_absl_handler().python_handler
  stream = handler.stream
  with rich.progress.Progress(*columns, console=console) as progress:
    # rich has put a proxy in stderr's place that writes above the bar; absl
    # holds the original, and its lines would break the bar.
    if stream is sys.__stderr__:
      handler.setStream(sys.stderr)
    try:
      task = progress.add_task(description, total=total, completed=done)
      for item in items:
        yield item
        progress.advance(task)
    finally:
      handler.setStream(stream)


class _Rate(rich.progress.ProgressColumn):
  """Items per second."""

  def __init__(self, unit: str):
    super().__init__()
    self._unit = unit

  def render(self, task: rich.progress.Task) -> str:
    speed = task.finished_speed or task.speed
    return '' if speed is None else f'{speed:.3g} {self._unit}/s'


def _log(items, description, total, done, unit, seconds):
  start = told = time.monotonic()
  count = done

  def tell(what):
    passed = max(time.monotonic() - start, 1e-9)
    rate = (count - done) / passed
    clock = (total - count) / rate if what == 'left' else passed
    logging.info(
      '%s: %d/%d %s, %.3g/s, %s %s',
      *(description, count, total, unit, rate),
      *(datetime.timedelta(seconds=round(clock)), what),
    )

  for item in items:
    yield item
    count += 1
    now = time.monotonic()
    if now - told >= seconds and count < total:
      told = now
      tell('left')
  tell('in all')


def _lines(path: pathlib.Path) -> list[tuple[str, dict]]:
  """The file's whole lines, as written and as read."""
  lines = path.read_text('utf-8', errors='replace').splitlines()
  pairs = []
  for number, line in enumerate(lines, start=1):
    try:
      pairs.append((line, json.loads(line)))
    except ValueError as error:
      if number < len(lines):
        raise ValueError(
          f'{path}, line {number} is no JSON object: {line[:80]!r}.'
        ) from error
  return pairs


def _keep(path: pathlib.Path, step: int) -> None:
  """Keeps the lines of the first `step` steps and drops the others."""
  if not path.exists():
    return
  kept = [line for line, row in _lines(path) if row['step'] <= step]
  if step == 0:  # a fresh start: even an evaluation before training goes
    kept = []
  artifact.write_text(path, ''.join(f'{line}\n' for line in kept))
