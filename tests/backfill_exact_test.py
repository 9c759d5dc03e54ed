"""What a search returns amid a backfill is exactly what it should be."""

import contextlib
import threading

import backfill_cases as cases
import backfill_runs as workers
import numpy as np
import pytest
import stores_cases

from fastfill_jax import curve, index
from fastfill_jax.backfill import pace, plan

N, K = 300, 10
IDS = np.arange(N) + 5
QUERIES = cases.new(np.arange(5) + 10_000)


@pytest.fixture(params=['arrays', 'postgres', 'lance'])
def app(request):
  return stores_cases.make_app(request.param, request, IDS, cases.old(IDS))


@pytest.fixture
def planned(tmp_path):
  return plan.Plan(cases.write_plan(tmp_path / 'plan', IDS))


def gallery(view):
  """(ids, embeddings) that a view's tags stand for."""
  ids, embeddings = [], []
  for piece, spaces in view.scan():
    for space, make in (
      (cases.ALIGNED, lambda i: cases.align(cases.old(i))[0]),
      (cases.NEW, cases.new),
    ):
      chosen = piece[spaces == space]
      ids.append(chosen)
      embeddings.append(make(chosen).reshape(-1, cases.NEW_DIM))
  return np.concatenate(ids), np.concatenate(embeddings)


def test_searches_amid_a_backfill_equal_an_exact_index(app, planned):
  """A reader of its own, whose snapshots fall anywhere between writes."""
  shares, errors, done = [], [], threading.Event()

  def read():
    try:
      with contextlib.closing(app.open()) as store:
        while not done.is_set():
          with store.snapshot() as view:
            counts = view.counts()
            if set(counts) - {cases.ALIGNED, cases.NEW}:
              continue  # the first embeddings are being written
            ids, embeddings = gallery(view)
            expected = index.ExactIndex(planned.distance)
            expected.build(embeddings, ids)
            found, distances = view.search(
              QUERIES, K, planned.distance, exact=True
            )
          true, true_distances = expected.search(QUERIES, K)
          np.testing.assert_allclose(distances, true_distances, atol=1e-5)
          np.testing.assert_array_equal(found, true)
          shares.append(counts.get(cases.NEW, 0) / N)
    except BaseException as error:
      errors.append(error)

  # The first call aligns, so that the reader is there for all the rest.
  workers.backfill(app, planned, until=pace.Until(items=0))
  reader = threading.Thread(target=read)
  reader.start()
  enough = threading.Event()

  def function(ids):
    # Not faster than the reader: it is to see many states.
    enough.wait(0.03)
    return cases.new(ids)

  reason, _, _ = workers.backfill(app, planned, function, threads=1, call=20)
  done.set()
  reader.join()
  assert not errors, errors
  assert reason == 'complete'
  between = [share for share in set(shares) if 0 < share < 1]
  assert len(between) >= 3


def test_map_at_every_share_is_the_forecasts(app, planned):
  """The live ranking's quality is that of the sweep that forecasts it."""
  label = IDS % 6
  query_label = np.arange(len(QUERIES)) % 6
  cutoffs = np.array([0, N // 4, N // 2, N])
  forecast = curve.sweep(
    QUERIES,
    planned.aligned[:],
    cases.new(IDS),
    query_label,
    label,
    planned.order[None],
    cutoffs,
    distance=planned.distance,
  )
  for place, cutoff in enumerate(cutoffs.tolist()):
    workers.backfill(app, planned, until=pace.Until(items=cutoff))
    with contextlib.closing(app.open()) as store:
      found, _ = store.search(QUERIES, N, planned.distance, exact=True)
    relevant = label[found - IDS[0]] == query_label[:, None]
    precision = relevant.cumsum(axis=1) / np.arange(1, N + 1)
    average = (precision * relevant).sum(axis=1) / relevant.sum(axis=1)
    assert average.mean() == pytest.approx(
      float(forecast['mAP'][0, place]), abs=1e-6
    )


def test_the_postgres_index_keeps_its_recall(request, planned):
  url = request.getfixturevalue('postgres').url
  index_of = ('hnsw', 'vector_cosine_ops')
  app = stores_cases.Postgres(url, IDS, cases.old(IDS), index=index_of)
  request.addfinalizer(app.close)
  workers.backfill(app, planned)
  names = app.execute(
    'SELECT amname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid '
    "JOIN pg_am m ON m.oid = relam WHERE indrelid = '{table}'::regclass "
    "AND amname = 'hnsw' AND indisvalid"
  ).fetchall()
  assert len(names) == 2  # the new field's is like the old one's
  with contextlib.closing(app.open()) as store:
    found, _ = store.search(QUERIES, K, 'cosine')
    exact, _ = store.search(QUERIES, K, 'cosine', exact=True)
    store.cut_over()
    assert store.describe().index == 'hnsw'
    again, _ = store.search(QUERIES, K, 'cosine')
  assert index.recall(found, exact) > 0.95
  np.testing.assert_array_equal(again, found)
