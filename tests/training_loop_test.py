import dataclasses
import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import parallel
from fastfill_jax.training import loop, optim


class _Never:
  def requested(self, step):
    return False


class _At(_Never):
  """Asks to stop before a step, as SIGTERM would."""

  def __init__(self, step):
    self._step = step

  def requested(self, step):
    return step == self._step


_HOW = parallel.How(_Never(), log_every=3, checkpoint_every=4)


def _batches(start):
  step = start
  while True:
    x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
    yield {'x': x, 'y': x @ np.array([1.0, -2.0, 0.5], np.float32)}
    step += 1


def _fit(
  directory,
  step_fn=None,
  num_steps=14,
  evaluate=None,
  **how,
):
  optimizer = optim.make_optimizer('sgd', 0.3, num_steps=14)
  params = {'w': jnp.zeros(3)}
  state = loop.State(jnp.int32(0), params, {}, optimizer.init(params))

  def loss_fn(params, batch_stats, batch):
    loss = jnp.mean((batch['x'] @ params['w'] - batch['y']) ** 2)
    return loss, ({'loss': loss}, batch_stats)

  step = functools.partial(loop.update, optimizer, loss_fn)
  mapped = parallel.pmap(step, in_axes=(None, 0), out_axes=None)
  return loop.fit(
    state,
    step_fn or (lambda _, state, batch: mapped(state, batch)),
    _batches,
    num_steps=num_steps,
    directory=directory / 'fit' / 'seed0-0',
    how=dataclasses.replace(_HOW, **how),
    evaluate=evaluate,
  )


def _log(directory):
  lines = (
    (directory / 'fit/seed0-0/logs/fit/metrics.jsonl').read_text().splitlines()
  )
  rows = [json.loads(line) for line in lines]
  return {row['step']: row['loss'] for row in rows}


def test_learns_and_logs_the_mean_of_the_steps(tmp_path):
  state = _fit(tmp_path)
  assert int(state.step) == 14
  log = _log(tmp_path)
  # Every third step but for the checkpoints', which write what there is.
  assert list(log) == [3, 4, 6, 8, 9, 12, 14]
  assert log[14] < log[3] / 4


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return _fit(tmp_path_factory.mktemp('whole'))


@pytest.mark.parametrize('stop', [1, 4, 7, 13])
def test_a_stopped_run_ends_like_an_uninterrupted_one(whole, tmp_path, stop):
  with pytest.raises(parallel.Preempted, match=f'after step {stop}'):
    _fit(tmp_path / 'parts', preemption=_At(stop))
  resumed = _fit(tmp_path / 'parts')
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_finished_run_does_no_more_steps(tmp_path):
  state = _fit(tmp_path)

  def fail(*_):
    raise AssertionError('a step was done again')

  again = _fit(tmp_path, step_fn=fail)
  jax.tree.map(np.testing.assert_array_equal, state, again)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
  def step(number, state, batch):
    del batch
    loss = jnp.float32(np.nan if number == 6 else 1.0)
    return state.replace(step=state.step + 1), {'loss': loss}

  with pytest.raises(FloatingPointError, match='step 7'):
    _fit(tmp_path, step_fn=step)
  # The last checkpoint is from before it.
  steps = [
    int(p.name) for p in (tmp_path / 'fit/seed0-0/checkpoints').iterdir()
  ]
  assert max(steps) == 4


def test_validation_picks_the_best_checkpoint(tmp_path):
  scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.2, 10: 0.5, 12: 0.4, 14: 0.6}
  _fit(
    tmp_path,
    evaluate=lambda state: {'accuracy': scores[int(state.step)]},
    evaluate_every=2,
  )
  kept = {int(p.name) for p in (tmp_path / 'fit/seed0-0/checkpoints').iterdir()}
  assert kept == {4, 12, 14}


def _traced_steps(directory):
  (path,) = directory.glob('fit/plugins/profile/*/*.trace.json.gz')
  events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  return {
    int(event['args']['step_num'])
    for event in events
    if event.get('name') == 'fit' and 'step_num' in event.get('args', {})
  }


def test_a_profile_holds_five_steps(tmp_path):
  _fit(tmp_path / 'a', profile=str(tmp_path / 'whole'))
  assert _traced_steps(tmp_path / 'whole') == {5, 6, 7, 8, 9}
  # Stopped while it traces: the trace is there, and the next run's too.
  with pytest.raises(parallel.Preempted):
    _fit(tmp_path / 'b', profile=str(tmp_path / 'part'), preemption=_At(7))
  assert _traced_steps(tmp_path / 'part') == {5, 6}
  _fit(tmp_path / 'b', profile=str(tmp_path / 'rest'))
  assert _traced_steps(tmp_path / 'rest') == {12, 13}
