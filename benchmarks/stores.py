"""Stores that are backfilled while they are searched.

  python -m benchmarks.stores --stores=postgres,lance --n=100000

Every store holds aligned vectors in its new field, indexed as its old field
is; a share of them is overwritten in random order, in batches of 1,000 that
are compared and set, while a reader with a connection of its own searches for
the ten nearest, one query after the other. Embedding takes no time here. The
stores are those of the tests (extra 'test'): PostgreSQL is started for it.
Of Qdrant there is its engine in this process (edge), whose index is built when
it is told to, as a server does by itself, and the client's local mode (qdrant),
which is slow and exact; without a second connection they are searched between
batches.
"""

import contextlib
import functools
import os
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np
from absl import app, flags

from benchmarks import table
from fastfill_jax import index, stores

sys.path.append(str(pathlib.Path(__file__).parent.parent / 'tests'))
import stores_cases
import stores_edge
import stores_server

_STORES = flags.DEFINE_list(
  'stores', 'arrays,postgres,lance,edge,qdrant', 'Which.'
)
_N = flags.DEFINE_integer('n', 100_000, 'Items.')
_LOCAL_N = flags.DEFINE_integer('local_n', 10_000, "Items of Qdrant's.")
_DIM = flags.DEFINE_integer('dim', 128, 'Embedding dimension.')
_SHARE = flags.DEFINE_float('share', 0.5, 'Of the items that is overwritten.')
_CSV = flags.DEFINE_string('csv', 'runs/benchmarks/stores.csv', 'Output.')

K, BATCH, QUERIES, CLASSES = 10, 1000, 200, 1000
OLD, NEW = 'aligned:a', 'new:b'


def clusters(rows: int, dim: int, seed: int) -> np.ndarray:
  """Unit vectors [row, dim] around CLASSES means."""
  means = np.random.default_rng(0).standard_normal((CLASSES, dim), np.float32)
  rng = np.random.default_rng(seed)
  x = means[rng.integers(CLASSES, size=rows)]
  x += 0.7 * rng.standard_normal((rows, dim), np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@contextlib.contextmanager
def opened(name: str, ids, old):
  """An application with a table of old embeddings, indexed."""
  with tempfile.TemporaryDirectory(dir='/tmp') as folder:
    if name == 'postgres':
      server = stores_server.Server()
      server.start()
      yield stores_cases.Postgres(
        server.url, ids, old, index=('hnsw', 'vector_cosine_ops')
      )
      server.stop()
    elif name == 'lance':
      from lancedb import index as lance_index

      one = stores_cases.Lance(pathlib.Path(folder), ids, old)
      one._table.create_index(
        'emb', config=lance_index.IvfFlat(distance_type='cosine')
      )
      yield one
    elif name == 'edge':
      client = stores_edge.EdgeClient(folder, 'emb', old.shape[1])
      one = stores_cases.Qdrant(ids, old, client)
      one.location = 'http://edge'
      yield one
      client.close()
    elif name == 'qdrant':
      yield stores_cases.Qdrant(ids, old)
    else:
      yield stores_cases.Arrays(pathlib.Path(folder), ids, old)


class Reader(threading.Thread):
  """Searches until told to stop; seconds of every search."""

  def __init__(self, store, queries):
    super().__init__(daemon=True)
    self._store, self._queries = store, queries
    self.seconds, self._done = [], threading.Event()
    self.start()

  def run(self):
    while not self._done.is_set():
      self.seconds += searches(self._store, self._queries[:1])
      self._queries = np.roll(self._queries, -1, axis=0)

  def stop(self):
    self._done.set()
    self.join()
    return self.seconds


def searches(store: stores.Store, queries) -> list[float]:
  seconds = []
  for query in queries:
    start = time.perf_counter()
    store.search(query[None], K, 'cosine')
    seconds.append(time.perf_counter() - start)
  return seconds


def recall(store: stores.Store, queries) -> float:
  found, exact = (
    store.search(queries, K, 'cosine', exact=exact)[0]
    for exact in (False, True)
  )
  return index.recall(found, exact)


def write(store, ids, vectors, tag, only_if, between=lambda: None) -> float:
  """Items a second."""
  start, aside = time.perf_counter(), 0.0
  for i in range(0, len(ids), BATCH):
    part = slice(i, i + BATCH)
    store.write(ids[part], vectors[part], tag, only_if=only_if)
    paused = time.perf_counter()
    between()
    aside += time.perf_counter() - paused
  return len(ids) / (time.perf_counter() - start - aside)


def measure(name: str) -> dict:
  """One row."""
  n = _LOCAL_N.value if name == 'qdrant' else _N.value
  ids, queries = np.arange(n) + 1, clusters(QUERIES, _DIM.value, 3)
  aligned, new = (clusters(n, _DIM.value, seed) for seed in (1, 1))
  aligned += 0.05 * np.random.default_rng(4).standard_normal(new.shape, 'f4')
  chosen = np.random.default_rng(5).permutation(n)[: round(_SHARE.value * n)]
  row = {'store': name, 'items': n, 'overwritten': len(chosen)}
  with opened(name, ids, clusters(n, 32, 2)) as application:
    store, reading = application.open(), application.open()
    row['version'] = store.describe().store
    store.prepare(_DIM.value, 'cosine')
    row['fill_per_s'] = write(store, ids, aligned, OLD, None)
    upkeep = functools.partial(store.upkeep, 'cosine')
    if name == 'edge':
      upkeep = application._client.optimize
    row['index_s'] = seconds(upkeep)
    searches(reading, queries)
    row.update(times('before', searches(reading, queries)))
    row['recall_before'] = recall(store, queries)
    during = []
    alone = name in stores_cases.QDRANTS
    reader = None if alone else Reader(reading, queries)

    def between():
      if reader is None:
        during.extend(searches(reading, queries[:5]))

    row['updates_per_s'] = write(
      store, ids[chosen], new[chosen], NEW, OLD, between
    )
    row.update(times('during', reader.stop() if reader else during))
    row['recall_after'] = recall(store, queries)
    row.update(times('after', searches(reading, queries)))
    row['upkeep_s'] = seconds(upkeep)
    row['recall_upkeep'] = recall(store, queries)
    row.update(times('upkeep', searches(reading, queries)))
    assert store.counts() == {OLD: n - len(chosen), NEW: len(chosen)}
    reading.close()
    store.close()
  return row


def seconds(function, *args) -> float:
  start = time.perf_counter()
  function(*args)
  return time.perf_counter() - start


def times(name, all_seconds) -> dict:
  p50, p95 = 1000 * np.percentile(all_seconds, [50, 95])
  return {f'{name}_p50_ms': p50, f'{name}_p95_ms': p95}


def show(row: dict):
  latency = ' | '.join(
    f'{row[f"{when}_p50_ms"]:.1f} / {row[f"{when}_p95_ms"]:.1f}'
    for when in ('before', 'during', 'after', 'upkeep')
  )
  print(
    f'| {row["store"]} | {row["items"]:,} | {row["fill_per_s"]:,.0f} | '
    f'{row["updates_per_s"]:,.0f} | {latency} | {row["recall_before"]:.3f} / '
    f'{row["recall_after"]:.3f} / {row["recall_upkeep"]:.3f} | '
    f'{row["index_s"]:.1f} / {row["upkeep_s"]:.1f} |',
    flush=True,
  )


def main(_):
  print(
    f'{_DIM.value} dimensions, {_SHARE.value:.0%} overwritten, '
    f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n'
    '| store | items | fill/s | updates/s | search ms p50 / p95 before | '
    'during | after | after upkeep | recall@10 before / after / upkeep | '
    'index s / upkeep s |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|'
  )
  rows = []
  for name in _STORES.value:
    rows.append(measure(name))
    show(rows[-1])
  print(table.write(_CSV.value, rows))


if __name__ == '__main__':
  app.run(main)
