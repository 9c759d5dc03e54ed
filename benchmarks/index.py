"""Build, search and upsert rates of the indices, beside faiss-cpu.

  python -m benchmarks.index --n=50000,500000

Every search answers the same batch of queries on all cores. An approximate
index searches with the least effort of its list that finds 95% of the true ten
nearest (or its greatest, if none does); the share of the exact index's rate is
of the same run. Upserts overwrite stored vectors in batches of 1,000, in
place; a dash is an index that cannot.
"""

import os
import time

import numpy as np
from absl import app, flags

from benchmarks import table
from fastfill_jax import index

_N = flags.DEFINE_list('n', ['50000', '500000'], 'Gallery sizes.')
_DIM = flags.DEFINE_integer('dim', 128, 'Embedding dimension.')
_QUERIES = flags.DEFINE_integer('queries', 2000, 'Queries in the batch.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Searches; the median counts.')
_NOISE = flags.DEFINE_float('noise', 0.7, 'Within classes, between them 1.')
_RECALL = flags.DEFINE_float('recall', 0.95, 'Recall@10 to reach.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/index.csv', 'Output.')

K = 10
BATCH = 1000
UPSERTS = 20_000
CLASSES = 1000
# Shares of the partitions that are searched.
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)


def clusters(rows: int, dim: int, seed: int) -> np.ndarray:
  """float32 [row, embedding]: a class mean plus noise, longer for some items.

  Coordinates shrink like a learnt embedding's spectrum. With the default noise
  and 50,000 rows the class of the nearest neighbour is right for 98% of the
  rows, and mAP is 0.7.
  """
  rng = np.random.default_rng(seed)
  means = np.random.default_rng(0).standard_normal((CLASSES, dim), np.float32)
  noise = rng.standard_normal((rows, dim), np.float32)
  noise *= _NOISE.value * rng.lognormal(0, 0.6, (rows, 1)).astype(np.float32)
  spectrum = np.arange(1, dim + 1, dtype=np.float32) ** -0.25
  return (means[rng.integers(CLASSES, size=rows)] + noise) * spectrum


class Ours:
  """An index of this package."""

  def __init__(self, name, index_name, efforts=(None,), **options):
    self.name, self.efforts = name, efforts
    self._index = index.make_index(index_name, **options)

  def build(self, gallery):
    self._index.build(gallery)

  def set_effort(self, share):
    self._index.leaves_to_search = share

  def search(self, query):
    return self._index.search(query, K)[0]

  def upsert(self, ids, embeddings):
    self._index.upsert(ids, embeddings)


class Faiss:
  """An index by faiss's factory string; {leaves} is √n, as for ours."""

  def __init__(self, name, factory, efforts=(None,), updates=False):
    self.name, self.efforts, self._factory = name, efforts, factory
    self._updates = updates

  def build(self, gallery):
    import faiss

    self._faiss, self._leaves = faiss, int(len(gallery) ** 0.5)
    factory = self._factory.format(leaves=self._leaves)
    self._index = faiss.index_factory(gallery.shape[1], factory)
    if 'HNSW' in factory:
      self._index.hnsw.efConstruction = 64
    if 'RFlat' in factory:
      # Ten candidates a neighbour are scored again: ScaNN's 100 for ten.
      self._index.k_factor = 10
    if not self._index.is_trained:
      self._index.train(gallery[:: max(1, len(gallery) // 100_000)])
    self._index.add(gallery)

  def set_effort(self, effort):
    if 'HNSW' in self._factory:
      self._index.hnsw.efSearch = effort
    else:
      inverted = self._faiss.extract_index_ivf(self._index)
      inverted.nprobe = max(1, round(effort * self._leaves))

  def search(self, query):
    return self._index.search(query, K)[1]

  def upsert(self, ids, embeddings):
    if not self._updates:
      raise NotImplementedError(self._factory)
    if self._index.direct_map.type == self._faiss.DirectMap.NoMap:
      self._index.make_direct_map()
    self._index.update_vectors(ids, embeddings)


def contenders(n: int):
  """What is compared, the exact index first."""
  yield Ours('exact', 'exact')
  yield Faiss('faiss Flat', 'Flat')
  exactly = {'quantise_from': n + 1, 'partition_from': n + 1}
  yield Ours('ScaNN, brute force', 'scann', **exactly)
  yield Ours('ScaNN, as built', 'scann')
  yield Ours('ScaNN, partitioned', 'scann', SHARES, partition_from=0)
  yield Faiss('faiss IVF', 'IVF{leaves},Flat', SHARES, updates=True)
  yield Faiss('faiss IVF, 4-bit codes', 'IVF{leaves},PQ64x4fs,RFlat', SHARES)
  yield Faiss('faiss HNSW16', 'HNSW16', (16, 32, 64, 128, 256, 512))


def seconds(function, *args) -> float:
  start = time.perf_counter()
  function(*args)
  return time.perf_counter() - start


def rate(contender, query) -> float:
  contender.search(query)
  times = [seconds(contender.search, query) for _ in range(_REPEATS.value)]
  return len(query) / float(np.median(times))


def upsert_rate(contender, n: int, dim: int) -> float | None:
  ids = np.random.default_rng(2).permutation(n)[:UPSERTS]
  embeddings = clusters(len(ids), dim, 3)
  try:
    # The first one may set up what the others use.
    contender.upsert(ids[:1], embeddings[:1])
  except NotImplementedError:
    return None
  start = time.perf_counter()
  for i in range(0, len(ids), BATCH):
    contender.upsert(ids[i : i + BATCH], embeddings[i : i + BATCH])
  return len(ids) / (time.perf_counter() - start)


def measure(contender, gallery, query, true) -> dict:
  """One row: build, the least effort that reaches the recall, upserts."""
  built = seconds(contender.build, gallery)
  for effort in contender.efforts:
    if effort is not None:
      contender.set_effort(effort)
    reached = index.recall(contender.search(query), true)
    if reached >= _RECALL.value:
      break
  return {
    'n': len(gallery),
    'index': contender.name,
    'effort': effort,
    'build_s': built,
    'queries_per_s': rate(contender, query),
    'recall@10': reached,
    'upserts_per_s': upsert_rate(contender, *gallery.shape),
  }


def main(_):
  print(
    f'{_QUERIES.value} queries at once, {_DIM.value} dimensions, '
    f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}'
  )
  print(
    f'{"n":>7} {"index":22} {"effort":>6} {"build s":>8} {"queries/s":>9} '
    f'{"× exact":>7} {"recall":>6} {"upserts/s":>9}'
  )
  rows = []
  for n in map(int, _N.value):
    gallery, query = (
      clusters(rows, _DIM.value, seed)
      for rows, seed in ((n, 1), (_QUERIES.value, 2))
    )
    truth = index.ExactIndex()
    truth.build(gallery)
    true, _ = truth.search(query, K)
    for contender in contenders(n):
      row = measure(contender, gallery, query, true)
      row['times_exact'] = row['queries_per_s'] / next(
        r['queries_per_s'] for r in [*rows, row] if r['n'] == n
      )
      rows.append(row)
      show(row)
  path = table.write(_CSV.value, rows)
  print(path)


def show(row: dict):
  effort, upserts = row['effort'], row['upserts_per_s']
  print(
    f'{row["n"]:7} {row["index"]:22} '
    f'{"-" if effort is None else effort:>6} {row["build_s"]:8.1f} '
    f'{row["queries_per_s"]:9,.0f} {row["times_exact"]:7.1f} '
    f'{row["recall@10"]:6.3f} '
    + (f'{"-":>9}' if upserts is None else f'{upserts:9,.0f}'),
    flush=True,
  )


if __name__ == '__main__':
  app.run(main)
