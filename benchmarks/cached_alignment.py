"""What it saves to align from cached embeddings.

  python -m benchmarks.cached_alignment --config=configs/cifar100_small.py

Times one training step of the alignment network from arrays, and the two or
three encoder passes over the same batch that a step would need without them
(decoding and augmentation come on top), on made-up images and embeddings.
"""

import csv
import pathlib
import statistics
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from fastfill_jax import align, embed, encoder, models, parallel, training
from fastfill_jax.models import alignment

_CONFIG = config_flags.DEFINE_config_file('config', None, 'As for main.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Pixels a side.')
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Timings; the median counts.')
_CSV = flags.DEFINE_string(
  'csv', 'runs/benchmarks/cached_alignment.csv', 'Output.'
)
flags.mark_flag_as_required('config')
_CLASSES = 100


def median_seconds(run) -> float:
  """Median seconds of a call that waits for its result, after a first one."""
  run()
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def time_alignment(config, rng) -> float:
  """Seconds of one step from arrays, BatchNorm not frozen."""
  size = config.align.batch_size
  widths = {name: config[name].encoder.embedding_dim for name in ('old', 'new')}
  batch = {
    name: rng.normal(size=(size, width)).astype(np.float32)
    for name, width in widths.items()
  } | {'label': rng.integers(0, _CLASSES, size, dtype=np.int32)}
  kernel = rng.normal(size=(widths['new'], _CLASSES)).astype(np.float32)
  network = alignment.Alignment(
    widths['new'],
    hidden_dim=config.align.hidden_dim,
    axis_name=parallel.AXIS,
  )
  optimizer, _ = encoder.make_optimizer(config.align, 10**6)
  definition = config.alignments[config.main_alignment]
  head = encoder.make_head(_CLASSES, **config.new.head)
  step = parallel.pmap(
    align.make_step(network, head, optimizer, definition, 0.1, train=True),
    in_axes=(None, 0, None),
    out_axes=None,
  )
  variables = network.init(jax.random.key(0), batch['old'])
  params, batch_stats = variables['params'], variables['batch_stats']
  state = parallel.replicate(
    training.State(np.int32(0), params, batch_stats, optimizer.init(params))
  )
  sharded = parallel.shard(batch)
  return median_seconds(
    lambda: jax.block_until_ready(step(state, sharded, kernel))
  )


def time_encoders(config, names, rng) -> float:
  """Seconds of the encoders' passes over a batch of the same size."""
  size = config.align.batch_size
  side = _IMAGE_SIZE.value
  channels = len(config.data.mean)
  images = rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8)
  variables = {
    name: models.make_encoder(**config[name].encoder).init(
      jax.random.key(0), images[:1].astype(np.float32)
    )
    for name in names
  }
  run = embed.make_embed(config, names)
  sharded = parallel.shard(images)
  return median_seconds(lambda: jax.block_until_ready(run(variables, sharded)))


def main(argv):
  """Prints and saves the table."""
  del argv
  config = _CONFIG.value
  rng = np.random.default_rng(0)
  names = ['old', 'new', *(['side'] if config.side.enabled else [])]
  step = time_alignment(config, rng)
  passes = time_encoders(config, names, rng)
  rows = [
    ('alignment step from arrays', step),
    (f'{len(names)} encoder passes', passes),
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
