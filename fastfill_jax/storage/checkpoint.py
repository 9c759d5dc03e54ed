"""Checkpoints of a training state: asynchronous, the last and the best kept."""

import os
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from fastfill_jax import parallel


class Checkpointer:
  """Saves and restores a training state, a tree of arrays without a device.

  The state is un-stacked NumPy when it is written, so it restores on any
  number of devices and processes. Every process calls `save` and `restore`.
  """

  def __init__(self, directory, best_metric: str | None = None):
    """Opens or makes a folder of checkpoints.

    The last two are kept, so that a truncated one has a predecessor, and the
    one with the largest value of `best_metric`, if there is one.
    """
    self._directory = pathlib.Path(os.path.abspath(directory))
    kept = [checkpoint_managers.LatestN(2)]
    if best_metric is not None:
      best = checkpoint_managers.BestN(
        n=1,
        get_metric_fn=lambda metrics: metrics[best_metric],
        keep_checkpoints_without_metrics=False,
      )
      kept.append(best)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
      enable_async_checkpointing=True,
    )
    self._manager = ocp.CheckpointManager(self._directory, options=options)

  def save(self, step: int, state: Any, metrics: dict | None = None):
    """Starts writing the state after `step` steps, in the background."""
    if step in self._manager.all_steps():
      return
    # NumPy on every process: Orbax refuses host-local arrays of many hosts.
    held = ocp.args.StandardSave(jax.device_get(state))
    self._manager.save(step, args=held, metrics=metrics, force=True)

  def restore(self, template: Any) -> tuple[int, Any]:
    """(step, state) of the newest readable checkpoint; (0, template) if none.

    An unreadable one is set aside as `STEP.unreadable`, and said.

    Raises:
      ValueError: If there are checkpoints and none can be read.
    """
    template = jax.device_get(template)
    like, error = ocp.args.StandardRestore(template), None
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        return step, jax.device_get(self._manager.restore(step, args=like))
      except Exception as failure:  # Orbax, TensorStore, zarr, JSON: any.
        error = failure
        reason = str(failure).split('\n', maxsplit=1)[0][:200]
        logging.warning(
          'Checkpoint %d in %s cannot be read (%s); trying the one before.',
          *(step, self._directory, reason),
        )
        self._set_aside(step)
    if error is not None:
      raise ValueError(
        f'No checkpoint in {self._directory} can be read; delete the folder to '
        f'train from the start. The last error: {error}'
      ) from error
    return 0, template

  def _set_aside(self, step: int):
    if parallel.is_main():
      aside = self._directory / f'{step}.unreadable'
      shutil.rmtree(aside, ignore_errors=True)
      (self._directory / str(step)).rename(aside)
    parallel.barrier(f'unreadable {step}')
    self._manager.reload()

  def close(self):
    """Waits for what is still being written."""
    self._manager.wait_until_finished()
    self._manager.close()
