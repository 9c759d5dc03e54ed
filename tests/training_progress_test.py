import json
import logging
import sys

import numpy as np
import pytest
from absl import logging as absl_logging

from fastfill_jax.training import progress


def lines(path):
  """The file's lines without their times."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [{k: v for k, v in row.items() if k != 'time'} for row in rows]


def run(directory, first, last, start_step=0):
  """Logs the losses of some steps as a training loop would."""
  with progress.Logger(directory, 'train', start_step=start_step) as logger:
    for step in range(first, last + 1):
      logger.write(step, {'loss': 1 / step})
  return logger.path


def test_a_line_per_step(tmp_path):
  path = run(tmp_path, 1, 2)
  assert path == tmp_path / 'train' / 'metrics.jsonl'
  assert lines(path) == [{'step': 1, 'loss': 1.0}, {'step': 2, 'loss': 1 / 2}]


def test_lines_are_there_at_once(tmp_path):
  with progress.Logger(tmp_path, 'train') as logger:
    logger.write(1, {'loss': np.float32(0.5)})
    assert lines(logger.path) == [{'step': 1, 'loss': 0.5}]


@pytest.mark.parametrize('cut', [0, 1, 7])
def test_a_killed_run_resumed_has_the_lines_of_an_uninterrupted_one(
  tmp_path, cut
):
  whole = run(tmp_path / 'whole', 1, 9)
  path = run(tmp_path / 'killed', 1, 6)
  # Killed while writing step 7's line, after the checkpoint of step 4.
  path.write_text(path.read_text() + '{"step": 7, "time": 1.0}'[:cut])
  assert lines(run(tmp_path / 'killed', 5, 9, start_step=4)) == lines(whole)


def test_a_fresh_start_forgets_everything(tmp_path):
  with progress.Logger(tmp_path, 'train') as logger:
    logger.write(0, {'accuracy': 0.1})
  assert lines(run(tmp_path, 1, 1)) == [{'step': 1, 'loss': 1.0}]


def test_kept_lines_are_not_touched(tmp_path):
  path = run(tmp_path, 1, 5)
  before = path.read_text().splitlines()
  run(tmp_path, 4, 4, start_step=3)
  assert path.read_text().splitlines()[:3] == before[:3]


def test_read_gives_a_frame_and_leaves_out_a_cut_line(tmp_path):
  with progress.Logger(tmp_path, 'train') as logger:
    logger.write(1, {'loss': 2.0})
    logger.write(2, {'loss': float('nan'), 'accuracy': 0.5})
  logger.path.write_text(logger.path.read_text() + '{"step": 3, "lo')
  frame = progress.read(logger.path)
  assert list(frame) == ['step', 'time', 'loss', 'accuracy']
  np.testing.assert_array_equal(frame['step'], [1, 2])
  np.testing.assert_array_equal(frame['loss'], [2.0, np.nan])
  np.testing.assert_array_equal(frame['accuracy'], [np.nan, 0.5])


def test_not_finite_is_null_to_strict_readers(tmp_path):
  with progress.Logger(tmp_path, 'train') as logger:
    logger.write(1, {'loss': float('inf')})
  assert '"loss": null' in logger.path.read_text()


def test_an_empty_file_is_an_empty_frame(tmp_path):
  (tmp_path / 'metrics.jsonl').touch()
  frame = progress.read(tmp_path / 'metrics.jsonl')
  assert len(frame) == 0
  assert 'step' in frame


def test_damage_before_the_last_line_is_named(tmp_path):
  path = run(tmp_path, 1, 3)
  text = path.read_text().splitlines()
  path.write_text('\n'.join([text[0], text[1][:5], text[2], '']))
  with pytest.raises(ValueError, match='line 2 is no JSON'):
    progress.read(path)
  with pytest.raises(ValueError, match='line 2 is no JSON'):
    progress.Logger(tmp_path, 'train', start_step=3)


def test_a_metric_cannot_be_called_step(tmp_path):
  with (
    progress.Logger(tmp_path, 'train') as logger,
    pytest.raises(ValueError, match='step'),
  ):
    logger.write(1, {'step': 3.0})


def events(path):
  """The events of each of TensorBoard's files beside a metrics.jsonl."""
  from tensorboardX.proto import event_pb2

  for file in sorted(path.parent.glob('events.out.tfevents.*')):
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
      length = int.from_bytes(data[:8], 'little')
      found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
    yield found


def test_tensorboard_gets_the_same_numbers(tmp_path):
  (found,) = events(run(tmp_path, 1, 2))
  values = [
    (event.step, value.tag, value.simple_value)
    for event in found
    for value in event.summary.value
  ]
  assert values == [(1, 'loss', 1.0), (2, 'loss', 0.5)]


def test_tensorboard_forgets_what_is_done_again(tmp_path):
  run(tmp_path, 1, 5)
  path = run(tmp_path, 4, 5, start_step=3)
  starts = {
    event.step
    for found in events(path)
    for event in found
    if event.session_log.status == event.session_log.START
  }
  assert starts == {1, 4}


def test_other_processes_write_nothing(tmp_path):
  with progress.Logger(tmp_path, 'train', enabled=False) as logger:
    logger.write(1, {'loss': 1.0})
  assert not list(tmp_path.iterdir())


def test_metrics_fail_alike_on_every_process(tmp_path):
  with (
    progress.Logger(tmp_path, 'train', enabled=False) as logger,
    pytest.raises(ValueError, match='time'),
  ):
    logger.write(1, {'time': 1.0})


# Bars.


class Clock:
  """A clock that a test turns."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  made = Clock()
  monkeypatch.setattr(progress.time, 'monotonic', made)
  return made


@pytest.fixture
def said(monkeypatch):
  """Log messages of a process without a terminal."""
  messages = []
  monkeypatch.setattr(
    absl_logging, 'info', lambda text, *args: messages.append(text % args)
  )
  return messages


def test_lines_in_a_log_now_and_then(clock, said):
  for _ in progress.bar(range(100), 'embed', unit='batches', seconds=30):
    clock.now += 1.0
  assert said == [
    'embed: 30/100 batches, 1/s, 0:01:10 left',
    'embed: 60/100 batches, 1/s, 0:00:40 left',
    'embed: 90/100 batches, 1/s, 0:00:10 left',
    'embed: 100/100 batches, 1/s, 0:01:40 in all',
  ]


def test_steps_of_an_earlier_run_are_done_but_not_speed(clock, said):
  steps = iter(range(90, 100))
  for _ in progress.bar(steps, 'old', total=100, done=90, seconds=10):
    clock.now += 2.0
  assert said == [
    'old: 95/100 steps, 0.5/s, 0:00:10 left',
    'old: 100/100 steps, 0.5/s, 0:00:20 in all',
  ]


@pytest.mark.parametrize('terminal', [True, False])
@pytest.mark.parametrize('enabled', [True, False])
def test_items_pass_unchanged(monkeypatch, capsys, terminal, enabled):
  monkeypatch.setenv('TTY_COMPATIBLE', str(int(terminal)))
  items = ['a', 'b', 'c']
  assert list(progress.bar(items, 'embed', enabled=enabled)) == items
  assert ('3/3' in capsys.readouterr().err) == (terminal and enabled)


def test_a_resumed_bar_starts_where_it_was(monkeypatch, capsys):
  monkeypatch.setenv('TTY_COMPATIBLE', '1')
  for _ in progress.bar(range(2), 'embed', done=3):
    pass
  assert '5/5' in capsys.readouterr().err


def test_logging_is_itself_again_after_a_broken_off_bar(monkeypatch, capsys):
  monkeypatch.setenv('TTY_COMPATIBLE', '1')
  handler = absl_logging.get_absl_handler().python_handler
  assert isinstance(handler, logging.StreamHandler)
  monkeypatch.setattr(sys, '__stderr__', handler.stream)
  before = handler.stream
  with pytest.raises(KeyError):
    for _ in progress.bar(range(3), 'embed'):
      assert handler.stream is sys.stderr
      assert handler.stream is not before
      raise KeyError
  assert handler.stream is before
  assert 'embed' in capsys.readouterr().err
