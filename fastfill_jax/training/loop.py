"""The training loop: resume, log, save, stop when asked; no model in it."""

import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import numpy as np
import optax
from absl import logging

from fastfill_jax import parallel
from fastfill_jax.storage import checkpoint
from fastfill_jax.training import progress

Batch = dict[str, np.ndarray]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class State:
  """What a step changes: un-stacked arrays, no key."""

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


def update(
  optimizer: optax.GradientTransformation,
  loss_fn: Callable[..., tuple[jax.Array, tuple[Metrics, Any]]],
  state: State,
  *batch: Any,
) -> tuple[State, Metrics]:
  """One step of training, to be pmapped once the first two are bound.

  `loss_fn` maps (params, batch_stats, *batch) to (loss, (metrics, batch_stats))
  of one device's share; nothing in it is averaged over devices but BatchNorm's
  statistics. State and metrics come out the same on every device.
  """
  grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
    state.params, state.batch_stats, *batch
  )
  grads, metrics, batch_stats = parallel.mean((grads, metrics, batch_stats))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return State(state.step + 1, params, batch_stats, opt_state), metrics


def fit(
  state: State,
  step_fn: Callable[[int, State, Batch], tuple[State, Metrics]],
  batches: Callable[[int], Iterator[Batch]],
  *,
  num_steps: int,
  directory: pathlib.Path,
  how: parallel.How,
  evaluate: Callable[[State], dict[str, float]] | None = None,
) -> State:
  """Trains from the last checkpoint in `directory`, or from `state`.

  Args:
    state: The state before the first step.
    step_fn: (step, state, sharded batch) -> (state, metrics).
    batches: Maps a step to the batches from there on; a pure function, so
      that a resumed run sees what an uninterrupted one would.
    num_steps: The length of training.
    directory: Of checkpoints/ and logs/; its parent is called as the training.
    how: Of logging, saving and stopping.
    evaluate: Validation metrics of a state; its 'accuracy' picks the best
      checkpoint. Done every `how.evaluate_every` steps and after the last.

  Raises:
    FloatingPointError: At a loss that is not finite, naming the step.
    parallel.Preempted: After SIGTERM, when the state is saved.
  """
  name = directory.parent.name
  saver = checkpoint.Checkpointer(
    directory / 'checkpoints', 'accuracy' if evaluate else None
  )
  start, state = saver.restore(state)
  state = parallel.replicate(state)
  if start:
    logging.info('%s: resumes after step %d of %d.', name, start, num_steps)
  main = parallel.is_main()
  profile = _Profile(how.profile and f'{how.profile}/{name}')
  with progress.Logger(
    directory / 'logs', name, start_step=start, enabled=main
  ) as logger:
    window = _Window(name, logger)
    stream = itertools.islice(batches(start), num_steps - start)
    numbered = zip(range(start, num_steps), stream, strict=False)
    step = start
    try:
      for step, batch in progress.bar(
        numbered, name, total=num_steps, done=start, enabled=main
      ):
        if how.preemption.requested(step):
          window.flush(step)
          saver.save(step, state)
          raise parallel.Preempted(f'{name} is saved after step {step}.')
        profile.before_step(step - start, state)
        with jax.profiler.StepTraceAnnotation(name, step_num=step):
          state, metrics = step_fn(step, state, parallel.shard(batch))
        window.add(step + 1, metrics)
        done = step + 1
        last = done == num_steps
        if step % how.log_every == 0:
          # Of the steps before the one now running: the device never waits.
          window.flush(step)
        if evaluate and (last or done % how.evaluate_every == 0):
          window.flush(done)
          scores = evaluate(state)
          logger.write(done, scores)
          saver.save(done, state, scores)
        elif last or done % how.checkpoint_every == 0:
          window.flush(done)
          saver.save(done, state)
    finally:
      profile.stop()
      saver.close()
  return state


class _Window:
  """Metrics since the last line, left on the device until they are written."""

  def __init__(self, name: str, logger: progress.Logger):
    self._name, self._logger = name, logger
    self._metrics: dict[int, Metrics] = {}

  def add(self, step: int, metrics: Metrics):
    self._metrics[step] = metrics

  def flush(self, last: int):
    """Fetches, checks and writes the mean of the steps up to `last`."""
    steps = [step for step in self._metrics if step <= last]
    rows = jax.device_get([self._metrics.pop(step) for step in steps])
    if not rows:
      return
    for step, row in zip(steps, rows, strict=True):
      if not np.isfinite(row['loss']):
        raise FloatingPointError(
          f'{self._name}: the loss of step {step} is {row["loss"]}. The last '
          'checkpoint is of an earlier step; lower the learning rate.'
        )
    mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
    self._logger.write(steps[-1], mean)


class _Profile:
  """An XLA trace of a few steps, past those that compile."""

  _STEPS = range(5, 10)

  def __init__(self, directory: str):
    self._directory = directory
    self._on = False

  def before_step(self, done: int, state: State):
    """Starts or stops, when so many steps of this run are done."""
    if self._directory and done in (self._STEPS.start, self._STEPS.stop):
      jax.block_until_ready(state)
      self.stop()
      if done == self._STEPS.start:
        jax.profiler.start_trace(self._directory)
        self._on = True

  def stop(self):
    """Writes the trace if it is on."""
    if self._on:
      self._on = False
      jax.profiler.stop_trace()
