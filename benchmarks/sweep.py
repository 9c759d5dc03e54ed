"""Time and memory of the exact sweep, beside its floor and its rivals.

  python -m benchmarks.sweep --n=1000,10000,50000

Each row is measured in a process of its own, whose peak memory is given.
Seconds are medians, after a warm-up that compiles:

  sweep     `curve.sweep`: all policies and cut-offs, its checks included
  products  the two matrix products alone, in blocks of queries, by the
            backend's library (NumPy's BLAS or XLA)
  sort      `metrics.average_precision` and `metrics.cmc` vmapped over queries:
            sorts the mixed gallery once per query, policy and cut-off
  authors   what the released code does, in NumPy and scikit-learn: distances,
            a full sort and a scikit-learn call per query, policy and cut-off

The last two are timed on a few queries at one cut-off and multiplied: ~. The
queries are the gallery, each left out of its own ranking.
"""

import functools
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.metrics
from absl import app, flags

from benchmarks import table
from fastfill_jax import curve, metrics, parallel

_N = flags.DEFINE_list('n', ['1000', '10000', '50000'], 'Gallery sizes.')
_CUTOFFS = flags.DEFINE_list('cutoffs', ['22', '1001'], 'Cut-offs of a curve.')
_POLICIES = flags.DEFINE_list('policies', ['1', '3', '8'], 'Policies.')
_BACKENDS = flags.DEFINE_list('backends', ['numba', 'jax'], 'Backends.')
_DIM = flags.DEFINE_integer('dim', 128, 'Embedding dimension.')
_CLASS = flags.DEFINE_integer('class_size', 50, 'Items of a class.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Sweeps; the median counts.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/sweep.csv', 'Output.')
_ROW = flags.DEFINE_string('row', '', 'Measure one row, given as JSON.')

_BLOCK = 1024  # Queries of one matrix product.
_FEW = 64  # Queries that the rivals are timed on.


def make_case(n: int) -> dict:
  """Labels and embeddings of a gallery that is its own queries.

  Classes of equal size. Coordinates are not negative, like a rectified
  encoder's; some items lie farther from their class mean than others, and are
  aligned worse. With 1,000 classes of 50: mAP 0.42 aligned, 0.53 new.
  """
  rng = np.random.default_rng(0)
  labels = rng.permutation(n) // _CLASS.value
  means = rng.standard_normal((labels.max() + 1, _DIM.value), np.float32)
  spread = rng.lognormal(0, 0.5, (n, 1)).astype(np.float32)

  def noise():
    return spread * rng.standard_normal((n, _DIM.value), np.float32)

  new = np.maximum(means[labels] + noise(), 0)
  aligned = np.maximum(new + noise() / 2, 0)
  ids = np.arange(n)
  return {
    'query': new,
    'aligned': aligned,
    'new': new,
    'query_labels': labels,
    'gallery_labels': labels,
    'query_ids': ids,
    'gallery_ids': ids,
  }


def seconds(fn) -> float:
  start = time.perf_counter()
  fn()
  return time.perf_counter() - start


@jax.jit
def _jax_products(query, aligned, new):
  product = functools.partial(jnp.dot, precision='highest')
  return product(query, aligned.T), product(query, new.T)


def products(case, backend):
  """Returns a function that multiplies all queries with both states."""
  arrays = [case[name] for name in ('query', 'aligned', 'new')]
  if backend == 'jax':
    arrays = [jnp.asarray(array) for array in arrays]
  query, aligned, new = arrays
  blocks = [query[i : i + _BLOCK] for i in range(0, len(query), _BLOCK)]
  out = np.empty((2, len(blocks[0]), len(new)), np.float32)

  def run():
    for block in blocks:
      if backend == 'jax':
        jax.block_until_ready(_jax_products(block, aligned, new))
      else:
        np.matmul(block, aligned.T, out=out[0, : len(block)])
        np.matmul(block, new.T, out=out[1, : len(block)])

  return run


def measure_sweep(n: int, cutoffs: int, policies: int, backend: str) -> dict:
  """Times one sweep and its matrix products in this process."""
  case = make_case(n)
  rng = np.random.default_rng(1)
  case['orders'] = np.stack([rng.permutation(n) for _ in range(policies)])
  case['cutoffs'] = curve.cutoffs(n, cutoffs - 2)
  case['backend'] = backend
  few = ('query', 'query_labels', 'query_ids')
  curve.sweep(**(case | {name: case[name][:_BLOCK] for name in few}))
  floor = products(case, backend)
  floor()
  # 1,001 cut-offs of large galleries take minutes: once is enough. In turns,
  # so that a busy machine is busy for both.
  times = [
    (seconds(floor), seconds(functools.partial(curve.sweep, **case)))
    for _ in range(_REPEATS.value if n * cutoffs < 10**7 else 1)
  ]
  floors, sweeps = zip(*times, strict=True)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {
    'sweep_s': statistics.median(sweeps),
    'products_s': statistics.median(floors),
    'peak_mib': peak,
    'device': parallel.describe() if backend == 'jax' else 'CPU',
  }


def measure_rivals(n: int) -> dict:
  """Seconds that the rivals take per policy and cut-off of a whole sweep."""
  case = make_case(n)
  query, labels = case['new'][:_FEW], case['gallery_labels']
  # Half of the gallery is new: a cut-off in the middle of a curve.
  mixed = np.where((np.arange(n) % 2)[:, None], case['new'], case['aligned'])
  by_sort = functools.partial(
    _by_sort, *map(jnp.asarray, (query, mixed, labels))
  )
  jax.block_until_ready(by_sort())
  return {
    'sort_s': seconds(lambda: jax.block_until_ready(by_sort())) * n / _FEW,
    'authors_s': seconds(lambda: _authors(query, mixed, labels)) * n / _FEW,
  }


@jax.jit
def _by_sort(query, gallery, labels):
  scores = jnp.dot(query, gallery.T, precision='highest')
  scores -= jnp.sum(gallery**2, axis=1)[None] / 2

  def one(i, scores):
    relevant, others = labels == labels[i], jnp.arange(labels.size) != i
    return (
      metrics.average_precision(scores, relevant, others),
      metrics.cmc(scores, relevant, 1, others),
      metrics.cmc(scores, relevant, 5, others),
    )

  return jax.vmap(one)(jnp.arange(len(query)), scores)


def _authors(query, gallery, labels):
  squares = (gallery**2).sum(axis=1)
  distances = (query**2).sum(axis=1)[:, None] + squares - 2 * query @ gallery.T
  distances = np.sqrt(np.maximum(distances, 0))
  order = np.argsort(distances, axis=1)
  hits = labels[order[:, 1:6]] == labels[: len(query), None]
  precisions = []
  for i, distance in enumerate(distances):
    others = np.arange(len(gallery)) != i
    precisions.append(
      sklearn.metrics.average_precision_score(
        labels[others] == labels[i], -distance[others]
      )
    )
  return hits[:, 0].mean(), hits.any(axis=1).mean(), np.mean(precisions)


def measure_apart(**row) -> dict:
  """Measures one row in a process of its own."""
  command = [
    sys.executable,
    '-m',
    'benchmarks.sweep',
    f'--row={json.dumps(row)}',
  ]
  command += [f'--{x.name}={x.value}' for x in (_DIM, _CLASS, _REPEATS)]
  result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
  return json.loads(result.stdout.decode().splitlines()[-1])


def main(argv):
  """Prints a table and writes it as CSV."""
  del argv
  if _ROW.value:
    row = json.loads(_ROW.value)
    measured = (
      measure_sweep(**row) if 'backend' in row else measure_rivals(**row)
    )
    print(json.dumps(measured))
    return
  rows = []
  print(
    f'{"n":>6} {"cut-offs":>8} {"policies":>8} {"backend":7} {"sweep s":>8} '
    f'{"products s":>10} {"ratio":>5} {"share":>5} {"peak MiB":>8} '
    f'{"sort":>8} {"authors":>8}'
  )
  for n in map(int, _N.value):
    rivals = measure_apart(n=n)
    for backend, cutoffs, policies in itertools.product(
      _BACKENDS.value, map(int, _CUTOFFS.value), map(int, _POLICIES.value)
    ):
      row = {'n': n, 'cutoffs': cutoffs, 'policies': policies}
      row['backend'] = backend
      row |= measure_apart(**row)
      row |= {name: s * cutoffs * policies for name, s in rivals.items()}
      rows.append(row)
      ratio = row['sweep_s'] / row['products_s']
      sort, authors = (row[x] / row['sweep_s'] for x in ('sort_s', 'authors_s'))
      print(
        f'{n:6} {cutoffs:8} {policies:8} {backend:7} {row["sweep_s"]:8.2f} '
        f'{row["products_s"]:10.2f} {ratio:5.1f} {1 / ratio:5.0%} '
        f'{row["peak_mib"]:8.0f} {f"~{sort:.0f}x":>8} {f"~{authors:.0f}x":>8}',
        flush=True,
      )
  path = table.write(_CSV.value, rows)
  print(f'\n{rows[-1]["device"]}; ~: times the sweep, multiplied up')
  print(f'written to {path}')


if __name__ == '__main__':
  app.run(main)
