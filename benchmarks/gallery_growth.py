"""Time and memory of the exact sweep as the gallery outgrows the memory.

  python -m benchmarks.gallery_growth --n=10000,30000,100000,300000,1000000

A thousand queries against galleries in memory-mapped shards in a temporary
folder, each in a process of its own. Peak memory is the process's own
(anonymous) memory above what it held before the sweep; file pages that the
system keeps as a cache and drops at will are given apart. Prints a table,
saves it as CSV and as a plot beside it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import memory, table
from fastfill_jax import curve
from fastfill_jax.storage import arrays

_N = flags.DEFINE_list(
  'n', ['10000', '30000', '100000', '300000', '1000000'], 'Gallery sizes.'
)
_QUERIES = flags.DEFINE_integer('queries', 1000, 'Queries.')
_CLASSES = flags.DEFINE_integer('classes', 1000, 'Classes.')
_DIM = flags.DEFINE_integer('dim', 128, 'Embedding dimension.')
_CUTOFFS = flags.DEFINE_integer('cutoffs', 22, 'Cut-offs of a curve.')
_POLICIES = flags.DEFINE_integer('policies', 3, 'Policies.')
_BACKEND = flags.DEFINE_string('backend', 'numba', 'numba or jax.')
_LIMIT = flags.DEFINE_integer('memory_mib', 1024, 'memory_limit of the sweep.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/gallery_growth.csv', 'Out.')
_ROW = flags.DEFINE_integer('row', 0, 'Measure one size in this process.')

_SHARD = 65_536


def write_gallery(directory: pathlib.Path, n: int):
  """Writes labels, aligned and new embeddings, a shard at a time."""
  means = np.random.default_rng(0).standard_normal(
    (_CLASSES.value, _DIM.value), np.float32
  )
  for shard, start in enumerate(range(0, n, _SHARD)):
    rng = np.random.default_rng(1 + shard)
    rows = min(_SHARD, n - start)
    labels = rng.integers(_CLASSES.value, size=rows)
    spread = rng.lognormal(0, 0.5, (rows, 1)).astype(np.float32)
    noise = rng.standard_normal((2, rows, _DIM.value), np.float32) * spread
    new = np.maximum(means[labels] + noise[0], 0)
    arrays.write_shard(directory / 'label', shard, labels)
    arrays.write_shard(directory / 'new', shard, new)
    aligned = np.maximum(new + noise[1] / 2, 0)
    arrays.write_shard(directory / 'aligned', shard, aligned)


def measure(n: int) -> dict:
  """Times one sweep over a gallery on disk, in this process."""
  with tempfile.TemporaryDirectory() as folder:
    directory = pathlib.Path(folder)
    write_gallery(directory, n)
    labels, aligned, new = (
      arrays.ShardedArray(directory / name)
      for name in ('label', 'aligned', 'new')
    )
    labels = labels[:]
    rng = np.random.default_rng(0)
    queries = np.sort(rng.choice(n, _QUERIES.value, replace=False))
    case = {
      'query': new[queries],
      'aligned': aligned,
      'new': new,
      'query_labels': labels[queries],
      'gallery_labels': labels,
      'orders': np.stack([rng.permutation(n) for _ in range(_POLICIES.value)]),
      'cutoffs': curve.cutoffs(n, _CUTOFFS.value - 2),
      'query_ids': queries,
      'gallery_ids': np.arange(n),
      'backend': _BACKEND.value,
      'memory_limit': _LIMIT.value * 2**20,
    }
    few = {x: case[x][:8] for x in ('query', 'query_labels', 'query_ids')}
    curve.sweep(**(case | few))
    with memory.PeakMemory() as peak:
      start = time.perf_counter()
      result = curve.sweep(**case)
      took = time.perf_counter() - start
  size = 2 * n * _DIM.value * 4 / 2**20
  return {
    'n': n,
    'queries': result['num_queries'],
    'embeddings_mib': size,
    'seconds': took,
    'peak_mib': peak.anonymous,
    'file_cache_mib': peak.files,
    'mAP_start': result['mAP'][0, 0],
    'mAP_end': result['mAP'][0, -1],
  }


def plot(rows: list[dict], path: pathlib.Path):
  """Draws seconds and memory against the gallery's size."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
  n = [row['n'] for row in rows]
  left.loglog(n, [row['seconds'] for row in rows], 'o-')
  left.set(ylabel='seconds', title=f'{_QUERIES.value:,} queries')
  right.loglog(n, [row['peak_mib'] for row in rows], 'o-', label='sweep')
  right.loglog(n, [row['embeddings_mib'] for row in rows], ':', label='files')
  right.axhline(_LIMIT.value, color='grey', ls='--', label='memory_limit')
  right.set(ylabel='MiB', title='Peak working memory')
  right.legend()
  for axes in (left, right):
    axes.set_xlabel('gallery items')
    axes.grid(alpha=0.3)
  figure.tight_layout()
  figure.savefig(path, dpi=150)


def measure_apart(n: int) -> dict:
  """Measures one size in a process of its own."""
  settings = (_QUERIES, _CLASSES, _DIM, _CUTOFFS, _POLICIES, _BACKEND, _LIMIT)
  command = [sys.executable, '-m', 'benchmarks.gallery_growth', f'--row={n}']
  command += [f'--{flag.name}={flag.value}' for flag in settings]
  result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
  return json.loads(result.stdout.decode().splitlines()[-1])


def main(argv):
  """Prints a table, and writes it as CSV and as a plot."""
  del argv
  if _ROW.value:
    print(json.dumps(measure(_ROW.value)))
    return
  rows = []
  print(
    f'{"n":>9} {"files MiB":>9} {"seconds":>8} {"us/pair":>8} '
    f'{"peak MiB":>8} {"file cache MiB":>14}'
  )
  for n in map(int, _N.value):
    row = measure_apart(n)
    rows.append(row)
    pair = row['seconds'] / n / row['queries'] * 1e6
    print(
      f'{n:9} {row["embeddings_mib"]:9.0f} {row["seconds"]:8.2f} '
      f'{pair:8.4f} {row["peak_mib"]:8.0f} {row["file_cache_mib"]:14.0f}',
      flush=True,
    )
  path = table.write(_CSV.value, rows)
  plot(rows, path.with_suffix('.png'))
  print(f'\nwritten to {path} and {path.with_suffix(".png")}')


if __name__ == '__main__':
  app.run(main)
