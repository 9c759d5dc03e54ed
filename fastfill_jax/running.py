"""How a stage goes about its work; none of it changes what comes out."""

import dataclasses

from fastfill_jax import parallel


@dataclasses.dataclass(frozen=True)
class How:
  """The keys of `config.run` that stages use.

  Attributes:
    preemption: Asked where work can be saved and stopped.
    data_dir: Where data sets lie; machines may differ.
    label_dir: For labels that cost a pass over the records.
    in_memory: Whether images are decoded once, into memory.
    num_workers: Data processes; 0: threads of this one.
    embed_batch_size: Images that are embedded at a time.
    log_every: Steps between two lines of metrics, each the mean since the last.
    checkpoint_every: Steps between two checkpoints.
    evaluate_every: Steps between two validations of an encoder.
    profile: A folder for an XLA trace of five steps of every training; or ''.
    sweep_backend: Of curve.sweep.
    memory_limit: Bytes the sweep may use.
  """

  preemption: parallel.Preemption
  data_dir: str | None = None
  label_dir: str | None = None
  in_memory: bool = False
  num_workers: int = 0
  embed_batch_size: int = 1024
  log_every: int = 50
  checkpoint_every: int = 500
  evaluate_every: int = 5000
  profile: str = ''
  sweep_backend: str = 'auto'
  memory_limit: int = 2**30

  def __post_init__(self):
    for name in (
      'log_every',
      'checkpoint_every',
      'evaluate_every',
      'embed_batch_size',
    ):
      if getattr(self, name) < 1:
        raise ValueError(
          f'run.{name}={getattr(self, name)}; it must be at least 1.'
        )
