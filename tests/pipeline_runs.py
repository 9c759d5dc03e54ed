"""Runs of the pipeline, for the tests of it and of the configs."""

import importlib

from fastfill_jax import parallel, pipeline


class Kill(parallel.Preemption):
  """Kills the run at its n-th step, like SIGKILL: nothing more is saved."""

  def __init__(self, at=-1):
    self._left = at

  def requested(self, step):
    self._left -= 1
    if self._left == 0:
      raise KeyboardInterrupt
    return False

  def raise_if_requested(self, where):
    pass


def debug_config(name='digits'):
  return importlib.import_module(f'configs.{name}').get_config('debug')


def run(config, workdir, kill_at=-1):
  pipeline.check(config)
  pipeline.claim(config, workdir)
  return pipeline.run(config, workdir, Kill(kill_at))
