"""What is special about one store."""

import contextlib
import uuid

import numpy as np
import pytest
import stores_cases
from stores_cases import DIM, NEW_DIM, vectors

from fastfill_jax import index, stores

N = 60
IDS = np.arange(N) + 5
X = vectors(N, NEW_DIM, 1)


def make(kind, request, ids=IDS, **options):
  if options or kind == 'postgres':
    pytest.importorskip('pgvector')
    url = request.getfixturevalue('postgres').url
    app = stores_cases.Postgres(url, ids, vectors(len(ids), DIM), **options)
    request.addfinalizer(app.close)
    return app
  return stores_cases.make_app(kind, request, ids, vectors(len(ids), DIM))


# Arrays.


def test_arrays_survive_a_torn_file_and_a_new_copy_of_the_state(request):
  app = make('arrays', request)
  store, reader = app.open(), app.open()
  store.prepare(NEW_DIM, 'cosine')
  for i in range(0, N, 10):
    part = slice(i, i + 10)
    store.write(IDS[part], X[part], 'aligned:a', only_if=None)
  log = app.directory / 'log'
  (log / '0000000099.partial').write_bytes(b'torn')
  store.upkeep('cosine')
  assert len(list(log.glob('*.npz'))) == 1
  store.write(IDS[:1], X[:1] + 1, 'new:b', only_if='aligned:a')
  app.delete(IDS[1:2])
  # One that read before, one that reads it all.
  for other in (reader, app.open()):
    assert other.counts() == {'aligned:a': N - 2, 'new:b': 1}
    np.testing.assert_array_equal(other.read(IDS[:1]).vectors, X[:1] + 1)


def test_an_index_follows_the_arrays(request):
  app = make('arrays', request)
  store = app.open()
  store.prepare(NEW_DIM, 'cosine')
  store.write(IDS, X, 'aligned:a', only_if=None)
  followers = [index.make_index(name, 'cosine') for name in ('auto', 'exact')]
  versions = [store.follow(follower) for follower in followers]
  store.write(IDS[:30], -X[:30], 'new:b', only_if='aligned:a')
  versions = [
    store.follow(follower, version)
    for follower, version in zip(followers, versions, strict=True)
  ]
  for follower in followers:
    assert follower.search(-X[:30], 1)[0][:, 0].tolist() == IDS[:30].tolist()
  app.delete(IDS[:5])
  for follower, version in zip(followers, versions, strict=True):
    store.follow(follower, version)
    assert len(follower) == N - 5


# PostgreSQL.


def test_postgres_keeps_half_precision_and_other_ids(request):
  ids = np.array([str(uuid.UUID(int=i)) for i in range(N)])
  app = make('postgres', request, ids, id_type='uuid')
  app.execute('ALTER TABLE {table} ADD COLUMN "emb""1_new" halfvec(6)')
  with contextlib.closing(app.open()) as store:
    done = store.prepare(NEW_DIM, 'cosine')
    assert not any('ADD COLUMN "emb""1_new"' in line for line in done)
    assert store.write(ids, X, 'aligned:a', only_if=None).tolist() == list(ids)
    items = store.read(ids[:3])
    assert set(items.ids) == set(ids[:3])
    found, _ = store.search(X[:3], 1, 'cosine')
    assert found[:, 0].tolist() == ids[:3].tolist()


def test_postgres_refuses_what_it_cannot_index(request):
  app = make('postgres', request, index=('hnsw', 'vector_l2_ops'))
  with contextlib.closing(app.open()) as store:
    with pytest.raises(ValueError, match=r'halfvec\(3072\)'):
      store.prepare(3072, 'l2')
    assert store.describe().new_dim is None


def test_postgres_indexes_the_new_field_as_the_old(request):
  app = make('postgres', request)
  app.execute(
    'CREATE INDEX ON {table} USING hnsw ("emb""1" vector_l2_ops) '
    'WITH (m = 7, ef_construction = 40)'
  )
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'l2')
    store.write(IDS, X, 'aligned:a', only_if=None)
    assert not store.upkeep('l2', 1)  # not due
    assert store.upkeep('l2', N // 2)
  definition = _indices(app)['"emb""1_new"']
  assert "m='7'" in definition and "ef_construction='40'" in definition
  # A build that was interrupted leaves an invalid one, which is replaced.
  app.execute(
    'UPDATE pg_index SET indisvalid = false '
    "WHERE indrelid = '{table}'::regclass AND NOT indisprimary "
    'AND pg_get_indexdef(indexrelid, 1, false) = %s',
    ['"emb""1_new"'],
  )
  assert set(_indices(app)) == {'"emb""1"'}
  before = _files(app)
  with contextlib.closing(app.open()) as store:
    store.upkeep('l2')
  assert set(_indices(app)) == {'"emb""1"', '"emb""1_new"'}
  # The old one is built anew, too: every update has written it.
  assert not before & _files(app)


def _files(app):
  rows = app.execute(
    'SELECT pg_relation_filenode(indexrelid) FROM pg_index '
    "WHERE indrelid = '{table}'::regclass AND NOT indisprimary"
  ).fetchall()
  return {row[0] for row in rows}


def _indices(app):
  """{column: definition} of the valid vector indices."""
  rows = app.execute(
    'SELECT pg_get_indexdef(indexrelid), pg_get_indexdef(indexrelid, 1, false) '
    "FROM pg_index WHERE indrelid = '{table}'::regclass AND indisvalid "
    'AND NOT indisprimary'
  ).fetchall()
  return {column: definition for definition, column in rows}


def test_postgres_notices_another_content_by_a_column(request):
  app = make('postgres', request)
  app.names = stores.Names(app.names.table, field='emb"1', revision='note')
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    store.write(IDS, X, 'aligned:a', only_if=None)
    items = store.read(IDS[:3], None)
    app.execute('UPDATE {table} SET note = NULL WHERE id = 8')
    nulls = store.read([8, 9], None)
    app.execute("UPDATE {table} SET note = 'z' WHERE id = 9")
    # A write that is no change of the content is no reason to embed again.
    app.execute('ALTER TABLE {table} ADD COLUMN views int')
    app.execute('UPDATE {table} SET views = 1 WHERE id <> 5')
    app.execute("UPDATE {table} SET note = 'y' WHERE id = 6")
    x = dict(zip(IDS.tolist(), -X, strict=True))
    written = store.write(
      items.ids,
      np.array([x[i] for i in items.ids.tolist()]),
      'new:b',
      only_if='aligned:a',
      revisions=items.revisions,
    )
    assert sorted(written.tolist()) == [5, 7]
    assert app.state()[6] == (stores.STALE, None)
    # To none from something is a change, too; none to none is not.
    written = store.write(
      nulls.ids,
      X[:2],
      'new:b',
      only_if=stores.STALE,
      revisions=nulls.revisions,
    )
  assert written.tolist() == [8]


def test_postgres_notices_any_write_without_one(request):
  app = make('postgres', request)
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    store.write(IDS, X, 'aligned:a', only_if=None)
    items = store.read(IDS[:3], None)
    app.execute("UPDATE {table} SET note = 'y' WHERE id = 6")
    written = store.write(
      items.ids, X[:3], 'new:b', only_if='aligned:a', revisions=items.revisions
    )
  assert sorted(written.tolist()) == [5, 7]


def test_postgres_leaves_the_users_settings(request):
  app = make('postgres', request)
  app.execute('ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.3)')

  def settings():
    return app.execute(
      "SELECT reloptions FROM pg_class WHERE oid = '{table}'::regclass"
    ).fetchone()[0]

  before = settings()
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    assert settings() == before
    store.clean_up()
  assert settings() == before
  triggers = app.execute(
    "SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass"
  ).fetchall()
  assert not triggers


def test_postgres_takes_inserts_of_the_new_pipeline_after_the_cut_over(request):
  app = make('postgres', request)
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    store.write(IDS, X, 'new:b', only_if=None)
    store.cut_over()
    app.execute(
      'INSERT INTO {table} (id, "emb""1", "emb""1_space") '
      "VALUES (1, %s, 'new:b')",
      [-X[0]],
    )
    assert store.counts() == {'new:b': N + 1}
    store.roll_back()
    items = store.read([1], 'old')
    assert np.isnan(items.vectors).all()


# LanceDB and Qdrant.


def test_lance_notices_another_content_by_a_column(request):
  app = make('lance', request)
  import pyarrow as pa

  app._table.add_columns([pa.field('rev', pa.int64())])
  app._table.update(where='id <> 5', values={'rev': 1})  # of 5 it is null
  app.names = stores.Names('items', field='emb', revision='rev')
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    store.write(IDS, X, 'aligned:a', only_if=None)
    items = store.read(IDS[:3], None)
    app._table.checkout_latest()
    app._table.update(where='id = 6', values={'rev': 2})
    written = store.write(
      items.ids, X[:3], 'new:b', only_if='aligned:a', revisions=items.revisions
    )
  assert sorted(written.tolist()) == [5, 7]


def test_lance_indexes_the_new_field_as_the_old(request):
  pytest.importorskip('lancedb')
  from lancedb import index as lance_index

  ids = np.arange(400)
  app = make('lance', request, ids)
  config = lance_index.IvfFlat(distance_type='cosine', num_partitions=2)
  app._table.create_index('emb', config=config)
  x = vectors(400, NEW_DIM, 1)
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    store.write(ids, x, 'aligned:a', only_if=None)
    store.upkeep('cosine')
    found, _ = store.search(x[:5], 1, 'cosine')
    assert found[:, 0].tolist() == ids[:5].tolist()
    store.cut_over()
    assert store.describe().index == 'IvfFlat'


@pytest.mark.parametrize('kind', stores_cases.QDRANTS)
def test_qdrant_notices_another_content_by_its_payload(kind, request):
  app = make(kind, request)
  app._client.set_payload('items', {'rev': 1}, IDS[1:].tolist())
  app.names = stores.Names('items', field='emb', revision='rev')
  store = app.open()
  store.prepare(NEW_DIM, 'cosine')
  store.write(IDS, X, 'aligned:a', only_if=None)
  items = store.read(IDS[:3], None)
  app._client.set_payload('items', {'rev': 2}, [6])
  written = store.write(
    items.ids, X[:3], 'new:b', only_if='aligned:a', revisions=items.revisions
  )
  assert sorted(written.tolist()) == [5, 7]


@pytest.mark.parametrize('kind', stores_cases.QDRANTS)
def test_qdrant_goes_on_when_a_point_disappears_amid_a_write(kind, request):
  app = make(kind, request)
  store = app.open()
  store.prepare(NEW_DIM, 'cosine')
  store.write(IDS, X, 'aligned:a', only_if=None)
  update, calls = store._client.batch_update_points, []

  def racing(*args):
    # Gone after the items were read and before they are written.
    if not calls:
      app.delete([6])
    calls.append(args)
    return update(*args)

  store._client.batch_update_points = racing
  written = store.write(IDS[:4], -X[:4], 'new:b', only_if='aligned:a')
  assert written.tolist() == [5, 7, 8] and len(calls) == 2


@pytest.mark.parametrize('kind', stores_cases.QDRANTS)
def test_qdrant_leaves_what_is_written_amid_a_write(kind, request):
  app = make(kind, request)
  store = app.open()
  store.prepare(NEW_DIM, 'cosine')
  store.write(IDS, X, 'aligned:a', only_if=None)
  update, calls = store._client.batch_update_points, []

  def racing(*args):
    calls.append(args)
    if len(calls) == 1:
      app.write_new([6], X[9:10], 'new:other')
    return update(*args)

  store._client.batch_update_points = racing
  written = store.write(IDS[:3], -X[:3], 'new:b', only_if='aligned:a')
  assert written.tolist() == [5, 7]
  space, vector = app.state()[6]
  assert space == 'new:other'
  np.testing.assert_allclose(vector, X[9], atol=1e-6)
