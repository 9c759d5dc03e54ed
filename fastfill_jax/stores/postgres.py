"""PostgreSQL with pgvector: one UPDATE writes a batch's vectors and tags.

The new embeddings are a second column of the same table. The cut-over renames
the columns, so every transaction looks first, under a lock that a rename waits
for, which column is which. An item's revision is its row's `xmin`, unless the
user names a column.
"""

import contextlib
import copy
import zlib

import numpy as np
import pgvector.psycopg
import psycopg

from fastfill_jax.stores import base, postgres_table, urls

_PIECE = 10_000
# Dead elements slow an index down; it loses recall by a vacuum alone, and the
# table's own waits until as many rows are dead as there are.
_UPKEEP_SHARE = 0.5
_ATTEMPTS = 5
# Older ones may corrupt an index that is written and vacuumed at once.
_SAFE_VERSION = (0, 8, 4)
_RETRIED = (
  psycopg.errors.DeadlockDetected,
  psycopg.errors.SerializationFailure,
)


class PostgresStore(base.Store):
  """A table with an id, a vector and whatever else.

  Args:
    url: As psycopg takes it.
    names: Table (perhaps 'schema.table') and columns.

  Raises:
    ValueError: If the server has no pgvector, the table or a column is not
      there, or what should be vectors is not.
  """

  has_snapshots = True

  def __init__(self, url: str, names: base.Names):
    super().__init__(names)
    self._url = url
    self._connection = self._connect()
    try:
      with self._transaction() as (_, table):
        self._check(table)
    except ValueError:
      self.close()
      raise
    self._id_dtype = np.int64 if table.integer_ids else str

  def _check(self, table):
    names = self.names
    for name in (names.id, names.field, names.revision):
      if name is not None and name not in table.columns:
        raise ValueError(
          f'{names.table} has no column {name!r}; it has '
          f'{", ".join(sorted(table.columns))}.'
        )
    kind = table.columns[names.field]
    if not kind.startswith(('vector(', 'halfvec(')):
      raise ValueError(f'{names.field} is {kind}, not vector(N) or halfvec(N).')

  def _connect(self):
    try:
      connection = psycopg.connect(self._url, autocommit=True)
    except psycopg.Error as error:
      raise ValueError(urls.masked(str(error))) from None
    try:
      pgvector.psycopg.register_vector(connection)
    except psycopg.ProgrammingError as error:
      connection.close()
      raise ValueError(f'{error}: CREATE EXTENSION vector first.') from None
    return connection

  @contextlib.contextmanager
  def _transaction(self):
    """A transaction in which no column is renamed."""
    with self._connection.transaction(), self._connection.cursor() as cursor:
      yield cursor, postgres_table.Table.look(cursor, self.names)

  def describe(self):
    with self._transaction() as (cursor, table):
      cursor.execute(
        "SELECT current_setting('server_version'), extversion "
        "FROM pg_extension WHERE extname = 'vector'"
      )
      server, extension = cursor.fetchone()
    warnings = ()
    if tuple(map(int, extension.split('.')[:3])) < _SAFE_VERSION:
      warnings = (
        f'pgvector {extension} may corrupt an HNSW index that is written '
        'during a vacuum: upgrade to 0.8.4 first.',
      )
    indices = table.indices.get(self.names.field)
    return base.Description(
      store=f'PostgreSQL {server}, pgvector {extension}',
      old_dim=table.width(table.old),
      new_dim=table.width(table.new),
      serving=table.serving,
      index=indices[0].kind if indices else None,
      warnings=warnings,
    )

  def prepare(self, dim, distance, dry_run=False):
    base.choose_distance(distance)
    with self._transaction() as (cursor, table):
      return self._change(cursor, table.preparing(dim), dry_run)

  def _change(self, cursor, statements, dry_run=False):
    # Who waits for a table makes all others wait behind.
    cursor.execute("SET LOCAL lock_timeout = '5s'")
    try:
      for statement in () if dry_run else statements:
        cursor.execute(statement)
    except psycopg.errors.LockNotAvailable:
      raise ValueError(f'{self.names.table} is busy: call again.') from None
    return [statement.as_string(cursor) for statement in statements]

  def scan(self):
    with (
      self._transaction() as (_, table),
      self._connection.cursor('fastfill_scan') as rows,
    ):
      rows.execute(
        table.statement('SELECT t.{id}::{key}, {tag} FROM {table} t')
      )
      while piece := rows.fetchmany(_PIECE):
        ids, spaces = zip(*piece, strict=True)
        yield self._ids(ids), base.objects(spaces)

  def counts(self):
    with self._transaction() as (cursor, table):
      cursor.execute(
        table.statement('SELECT {tag}, count(*) FROM {table} t GROUP BY 1')
      )
      return dict(cursor.fetchall())

  def read(self, ids, field='new'):
    ids = base.check_ids(ids)
    with self._transaction() as (cursor, table):
      column = {'old': table.old, 'new': table.new, None: None}[field]
      dim = table.width(column)
      vector = 'NULL' if dim is None else f't.{{{field}}}::vector'
      cursor.execute(
        table.statement(
          f'SELECT t.{{id}}::{{key}}, {{tag}}, {{revision}}::text, {vector} '
          'FROM {table} t JOIN unnest(%s::{key}[]) AS wanted(id) '
          'ON t.{id} = wanted.id::{id_type}'
        ),
        [ids.tolist()],
        binary=True,
      )
      rows = cursor.fetchall()
    vectors = None
    if dim is not None:
      vectors = np.full((len(rows), dim), np.nan, np.float32)
      for place, row in enumerate(rows):
        if row[3] is not None:
          vectors[place] = _numpy(row[3])
    return base.Items(
      self._ids([row[0] for row in rows]),
      base.objects([row[1] for row in rows]),
      base.objects([row[2] for row in rows]),
      vectors,
    )

  def search(self, query, k, distance, exact=False):
    operator = postgres_table.OPERATORS[base.choose_distance(distance)]
    ids, distances = [], []
    with self._transaction() as (cursor, table):
      # Both ways: in a snapshot settings outlive the call.
      cursor.execute(f'SET LOCAL enable_indexscan = {"off" if exact else "on"}')
      cursor.execute(f'SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * k))}')
      statement = table.statement(
        f'SELECT {{id}}::{{key}}, {{new}} {operator} %(query)s::{{new_type}} '
        'FROM {table} WHERE {new} IS NOT NULL '
        f'ORDER BY {{new}} {operator} %(query)s::{{new_type}} LIMIT %(k)s'
      )
      for vector in np.asarray(query, np.float32):
        arguments = {'query': pgvector.Vector(vector), 'k': k}
        # Not prepared: a plan that is kept would outlive the setting above.
        cursor.execute(statement, arguments, binary=True, prepare=False)
        found, values = zip(*cursor.fetchall(), strict=True)
        ids.append(found)
        distances.append(values)
    distances = np.array(distances, float)
    return self._ids(ids), distances**2 if distance == 'l2' else distances

  @contextlib.contextmanager
  def snapshot(self):
    frozen = copy.copy(self)
    with contextlib.closing(self._connect()) as connection:
      connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
      connection.read_only = True
      frozen._connection = connection
      with connection.transaction():
        yield frozen

  @contextlib.contextmanager
  def lock(self):
    key = zlib.crc32(f'fastfill {self.names.table} {self.names.field}'.encode())
    with contextlib.closing(self._connect()) as connection:
      # The server notices a moment later that a killed worker has gone.
      connection.execute("SET lock_timeout = '2s'")
      try:
        connection.execute('SELECT pg_advisory_lock(%s)', [key])
      except psycopg.errors.LockNotAvailable:
        raise ValueError(
          f'Another backfill of {self.names.table} is running.'
        ) from None
      yield

  def upkeep(self, distance, written=None):
    """Builds the indices anew, then takes the dead rows away.

    In this order: vacuuming an index full of dead elements takes longer than
    building it, and costs recall; that holds for the old field's, too.
    """
    with self._transaction() as (cursor, table):
      cursor.execute(table.statement('SELECT count(*) FROM {table}'))
      if written is not None and written < _UPKEEP_SHARE * cursor.fetchone()[0]:
        return False
      statements = table.indexing(distance)
      statements.append(table.statement('VACUUM (ANALYZE) {table}'))
    for statement in statements:
      self._connection.execute(statement)
    return True

  def cut_over(self):
    with self._transaction() as (cursor, table):
      self._change(cursor, table.swapping('new'))

  def roll_back(self):
    with self._transaction() as (cursor, table):
      self._change(cursor, table.swapping('old'))

  def clean_up(self):
    with self._transaction() as (cursor, table):
      self._change(cursor, table.cleaning())

  def close(self):
    self._connection.close()

  def _write(self, ids, vectors, space, only_if, revisions):
    for attempt in range(_ATTEMPTS):
      try:
        return self._write_once(ids, vectors, space, only_if, revisions)
      except _RETRIED:
        # The application's transactions lock rows in an order of their own.
        if attempt == _ATTEMPTS - 1:
          raise

  def _write_once(self, ids, vectors, space, only_if, revisions):
    checked = ''
    if revisions is None:
      revisions = [None] * len(ids)
    else:
      checked = 'AND {revision}::text IS NOT DISTINCT FROM b.revision '
    with self._transaction() as (cursor, table):
      cursor.execute(
        table.statement(
          'CREATE TEMP TABLE fastfill_batch (place bigint, id {key}, '
          'vector vector, revision text) ON COMMIT DROP'
        )
      )
      with cursor.copy(
        'COPY pg_temp.fastfill_batch FROM STDIN (FORMAT binary)'
      ) as rows:
        key = 'int8' if table.integer_ids else 'text'
        rows.set_types(['int8', key, 'vector', 'text'])
        for place, i in enumerate(ids.tolist()):
          vector = pgvector.Vector(vectors[place])
          rows.write_row((place, i, vector, revisions[place]))
      cursor.execute(
        table.statement(
          'UPDATE {table} t SET {new} = b.vector::{new_type}, {space} = %s '
          'FROM pg_temp.fastfill_batch b WHERE t.{id} = b.id::{id_type} '
          f'AND {{tag}} IS NOT DISTINCT FROM %s {checked}RETURNING b.place'
        ),
        [space, only_if],
      )
      places = np.array([row[0] for row in cursor.fetchall()], np.int64)
    return ids[np.sort(places)]

  def _ids(self, ids):
    return np.array(ids, self._id_dtype if len(ids) else np.int64)


def _numpy(vector) -> np.ndarray:
  return vector.to_numpy() if hasattr(vector, 'to_numpy') else vector
