"""What it saves to align from cached embeddings.

  python -m benchmarks.cached_alignment --config=configs/cifar100_small.py

Times one training step of the main alignment from arrays, and the two or three
encoder passes over as many images that a step would need without them
(decoding and augmentation come on top), on made-up images and embeddings.
"""

import csv
import pathlib

from absl import app, flags
from ml_collections import config_flags

from fastfill_jax import cost, parallel, workload

_CONFIG = config_flags.DEFINE_config_file('config', None, 'As for main.')
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Timings; the median counts.')
_CSV = flags.DEFINE_string(
  'csv', 'runs/benchmarks/cached_alignment.csv', 'Output.'
)
flags.mark_flag_as_required('config')


def main(argv):
  """Prints and saves the table."""
  del argv
  config = _CONFIG.value
  main_alignment = config.alignments[config.main_alignment]
  with config.unlocked():
    config.alignments = {config.main_alignment: main_alignment}
  size = workload.data_size(config)
  (alignment,) = workload.align_stage(config, size).programs
  (encoders,) = workload.embed_stage(config, size, runs=1).programs
  step = cost.time_program(alignment, _REPEATS.value)
  passes = cost.time_program(encoders, _REPEATS.value)
  passes *= config.align.batch_size / config.embed.batch_size
  rows = [
    ('alignment step from arrays', step),
    ('encoder passes', passes),
    ('both, as without the cache', step + passes),
  ]
  print(
    f'{config.name}, batch {config.align.batch_size}, {parallel.describe()}'
  )
  for name, seconds in rows:
    print(f'{name:28} {1e3 * seconds:9.1f} ms {seconds / step:7.1f} x')
  path = pathlib.Path(_CSV.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([('what', 'seconds'), *rows])


if __name__ == '__main__':
  app.run(main)
