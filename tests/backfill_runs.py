"""A call of a worker on a small gallery, for the tests of what it does."""

import contextlib
import threading

import backfill_cases as cases
import numpy as np

from fastfill_jax.backfill import embedders, journal, worker

N = 200
IDS = np.arange(N) + 5


def backfill(app, planned, function=cases.embedder, **options):
  """One call of a worker; (why it ended, the worker, its journal)."""
  stop = options.setdefault('stop', threading.Event())
  price = options.pop('price', 10.0)
  calls = options.pop('call', 7)
  name = options.pop('journal', 'journal.jsonl')
  kept = journal.Journal(planned.directory / name)
  engine = embedders.Embedder(
    function, planned.new_dim, price=price, batch_size=calls, stop=stop
  )
  with contextlib.closing(app.open()) as store:
    store.prepare(planned.new_dim, planned.distance)
    one = worker.Worker(
      store, planned, engine, kept, **{'batch': 20, 'threads': 2, **options}
    )
    return one.run(), one, kept


def tags(app):
  return {i: space for i, (space, _) in app.state().items()}
