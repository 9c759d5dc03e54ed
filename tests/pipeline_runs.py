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
  """Its debug form: of the rows one of each kind, fitted and trained."""
  config = importlib.import_module(f'configs.{name}').get_config('debug')
  keep(config, 'ridge', config.main_alignment)
  return config


def keep(config, *names):
  """Drops all rows but these."""
  for name in set(config.alignments) - set(names):
    del config.alignments[name]


def run(config, workdir, kill_at=-1):
  pipeline.claim(config, workdir)
  return pipeline.run(config, workdir, Kill(kill_at))
