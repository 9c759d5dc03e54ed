"""Time and memory of planning the backfill of a stored gallery.

  python -m benchmarks.plan --n=100000,1000000

Old embeddings, made up, lie in memory-mapped shards in a temporary folder; an
alignment with uncertainty is fitted to a few pairs, then the stage 'plan' maps
the gallery into the new space and puts it in order. Peak memory is the
process's own (anonymous) memory above what it held before.
"""

import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import memory, table
from configs import embeddings as config_file
from fastfill_jax import parallel, pipeline
from fastfill_jax.storage import arrays

_N = flags.DEFINE_list('n', ['100000', '1000000'], 'Items.')
_DIM = flags.DEFINE_integer('dim', 128, 'Of both embeddings.')
_HIDDEN = flags.DEFINE_integer('hidden_dim', 2048, "Of the alignment's mixer.")
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/plan.csv', 'Output.')

_SHARD = 65_536
_PAIRS = 4096


def write_source(source: pathlib.Path, n: int):
  """Pairs to fit and to measure on, and a gallery of n old embeddings."""
  rng = np.random.default_rng(0)
  old = rng.standard_normal((2 * _PAIRS, _DIM.value), np.float32)
  turn = np.linalg.qr(rng.standard_normal((_DIM.value, _DIM.value)))[0]
  new = (old @ turn).astype(np.float32)
  for split, rows in (
    ('train', slice(_PAIRS)),
    ('gallery', slice(_PAIRS, None)),
  ):
    arrays.write(source / split / 'old', old[rows])
    arrays.write(source / split / 'new', new[rows])
  arrays.write(source / 'gallery' / 'label', np.arange(_PAIRS) % 100)
  for shard, start in enumerate(range(0, n, _SHARD)):
    shape = min(_SHARD, n - start), _DIM.value
    rows = np.random.default_rng(shard).standard_normal(shape, np.float32)
    arrays.write_shard(
      source / 'backfill' / 'old', shard, rows.astype(np.float16)
    )


def measure(n: int) -> dict:
  """Fits an alignment, and times the plan alone."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    write_source(folder / 'source', n)
    config = config_file.get_config()
    config.embed.source = str(folder / 'source')
    config.align.hidden_dim = _HIDDEN.value
    config.align.num_epochs = 2
    config.align.warmup_epochs = 1
    for name in set(config.alignments) - {config.main_alignment}:
      del config.alignments[name]
    preemption = parallel.Preemption()
    config.stages = ('embed', 'align')
    pipeline.run(config, folder, preemption)
    config.stages = ('embed', 'align', 'plan')
    with memory.PeakMemory() as peak:
      start = time.perf_counter()
      pipeline.run(config, folder, preemption)
      took = time.perf_counter() - start
  return {
    'n': n,
    'old_mib': n * _DIM.value * 2 / 2**20,
    'seconds': took,
    'items_per_s': n / took,
    'peak_mib': peak.anonymous,
  }


def main(argv):
  """Prints a table and writes it as CSV."""
  del argv
  print(
    f'{"n":>11} {"old MiB":>8} {"seconds":>8} {"items/s":>8} {"peak MiB":>8}'
  )
  rows = []
  for n in map(int, _N.value):
    row = measure(n)
    rows.append(row)
    print(
      f'{n:11,} {row["old_mib"]:8.0f} {row["seconds"]:8.1f} '
      f'{row["items_per_s"]:8,.0f} {row["peak_mib"]:8.0f}'
    )
  table.write(_CSV.value, rows)


if __name__ == '__main__':
  app.run(main)
