"""What a PostgreSQL table looks like at one moment, and SQL in its words."""

import dataclasses
import zlib

import psycopg
from psycopg import sql

from fastfill_jax.stores import base

OPERATORS = {'l2': '<->', 'cosine': '<=>'}
_INTEGERS = ('smallint', 'integer', 'bigint')
# What pgvector's index takes of type vector.
_INDEXED_WIDTH = 2000
# A vacuum amid mass updates costs recall: upkeep does it, in its turn.
_VACUUM, _RARELY = 'autovacuum_vacuum_scale_factor', 1


@dataclasses.dataclass(frozen=True)
class Index:
  """An index of a column of vectors."""

  name: tuple[str, str]
  kind: str
  options: dict
  valid: bool


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, as long as the transaction lasts that looked.

  Attributes:
    names: The user's.
    columns: {column: type}, as the catalogue spells it.
    indices: {column: its vector indices}.
    options: Storage parameters as 'name=value'.
  """

  names: base.Names
  columns: dict[str, str]
  indices: dict[str, list[Index]]
  options: tuple[str, ...]

  @classmethod
  def look(cls, cursor, names: base.Names) -> 'Table':
    """Looks; the table is not renamed or dropped before the transaction ends.

    Raises:
      ValueError: If there is no such table.
    """
    table = sql.Identifier(*names.table.split('.'))
    try:
      cursor.execute(
        sql.SQL('LOCK TABLE {} IN ACCESS SHARE MODE').format(table)
      )
    except psycopg.errors.UndefinedTable:
      raise ValueError(f'There is no table {names.table}.') from None
    name = [table.as_string(cursor)]
    cursor.execute(
      'SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute '
      'WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped',
      name,
    )
    columns = dict(cursor.fetchall())
    cursor.execute(
      'SELECT a.attname, n.nspname, c.relname, m.amname, c.reloptions, '
      'i.indisvalid FROM pg_index i '
      'JOIN pg_class c ON c.oid = i.indexrelid '
      'JOIN pg_namespace n ON n.oid = c.relnamespace '
      'JOIN pg_am m ON m.oid = c.relam '
      'JOIN pg_attribute a '
      'ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] '
      "WHERE i.indrelid = %s::regclass AND m.amname IN ('hnsw', 'ivfflat') "
      'ORDER BY c.relname',
      name,
    )
    indices = {}
    for column, schema, index, kind, options, valid in cursor.fetchall():
      options = dict(option.split('=') for option in options or ())
      indices.setdefault(column, []).append(
        Index((schema, index), kind, options, valid)
      )
    cursor.execute(
      'SELECT reloptions FROM pg_class WHERE oid = %s::regclass', name
    )
    return cls(names, columns, indices, tuple(cursor.fetchone()[0] or ()))

  @property
  def serving(self) -> str:
    return 'new' if self.names.old in self.columns else 'old'

  @property
  def old(self) -> str:
    return self.names.old if self.serving == 'new' else self.names.field

  @property
  def new(self) -> str:
    """The new column, there or not."""
    return self.names.field if self.serving == 'new' else self.names.new

  @property
  def integer_ids(self) -> bool:
    return self.columns[self.names.id] in _INTEGERS

  def width(self, column: str) -> int | None:
    kind = self.columns.get(column)
    return int(kind.rstrip(')').split('(')[1]) if kind else None

  def statement(self, text: str, **parts) -> sql.Composed:
    """SQL with identifiers in the places of {names}; t is the table."""
    names = self.names
    # A row's xmin is the transaction that wrote it last.
    revision = sql.SQL('t.xmin')
    if names.revision:
      revision = sql.Identifier('t', names.revision)
    tagged = names.space in self.columns
    return sql.SQL(text).format(
      table=sql.Identifier(*names.table.split('.')),
      id=sql.Identifier(names.id),
      old=sql.Identifier(self.old),
      new=sql.Identifier(self.new),
      space=sql.Identifier(names.space),
      tag=sql.Identifier('t', names.space) if tagged else sql.SQL('NULL::text'),
      revision=revision,
      key=sql.SQL('bigint' if self.integer_ids else 'text'),
      id_type=sql.SQL(self.columns[names.id]),
      new_type=sql.SQL(self._kind(self.new)),
      **parts,
    )

  def _kind(self, column):
    """Its type, vector or halfvec; a new column is what the old one is."""
    default = self.columns.get(self.names.field, 'vector')
    return self.columns.get(column, default).partition('(')[0]

  # Statements of which a change consists.

  def preparing(self, dim: int) -> list[sql.Composed]:
    there = self.width(self.new)
    if there not in (None, dim):
      raise ValueError(f'{self.new} is {there} wide, the plan {dim}.')
    texts = []
    if there is None:
      wide = self._kind(self.new) == 'vector' and dim > _INDEXED_WIDTH
      if wide and self.indices.get(self.old):
        raise ValueError(
          f'pgvector indexes no vector of {dim}: add the column {self.new} as '
          f'halfvec({dim}) and call again.'
        )
      texts += [
        f'ALTER TABLE {{table}} ADD COLUMN {{new}} {{new_type}}({dim:d})'
      ]
    if self.names.space not in self.columns:
      texts += ['ALTER TABLE {table} ADD COLUMN {space} text']
      if not any(option.startswith(_VACUUM) for option in self.options):
        texts += [f'ALTER TABLE {{table}} SET ({_VACUUM} = {_RARELY})']
    statements = [self.statement(text) for text in texts]
    if statements:
      statements += [self._stale_function(self.new), *self._stale_trigger()]
    return statements

  def swapping(self, to: str) -> list[sql.Composed]:
    """Renames that make the other field the served one."""
    if self.serving == to:
      return []
    names = self.names
    if to == 'new':
      self._need(names.new, 'There is no new field to serve')
      renames = [(names.field, names.old), (names.new, names.field)]
      new = names.field
    else:
      self._need(names.old, 'The old field is gone')
      renames = [(names.field, names.new), (names.old, names.field)]
      new = names.new
    statements = [
      self.statement(
        'ALTER TABLE {table} RENAME {before} TO {after}',
        before=sql.Identifier(before),
        after=sql.Identifier(after),
      )
      for before, after in renames
    ]
    if to == 'new':
      # The new pipeline writes no old embeddings.
      statements.append(
        self.statement(
          'ALTER TABLE {table} ALTER {column} DROP NOT NULL',
          column=sql.Identifier(names.old),
        )
      )
    return [*statements, self._stale_function(new)]

  def _need(self, column, otherwise):
    if column not in self.columns:
      raise ValueError(f'{otherwise}: {self.names.table} has no {column}.')

  def cleaning(self) -> list[sql.Composed]:
    unused = '{old}' if self.serving == 'new' else '{new}'
    texts = (
      'DROP TRIGGER IF EXISTS {trigger} ON {table}',
      'DROP FUNCTION IF EXISTS {function}()',
      f'ALTER TABLE {{table}} DROP COLUMN IF EXISTS {unused}',
      'ALTER TABLE {table} DROP COLUMN IF EXISTS {space}',
    )
    if f'{_VACUUM}={_RARELY}' in self.options:
      texts = (*texts, f'ALTER TABLE {{table}} RESET ({_VACUUM})')
    return [self._trigger_sql(text) for text in texts]

  def indexing(self, distance: str) -> list[sql.Composed]:
    """Indices of both columns built anew; the new one's made as the old's is.

    A row that is written enters every index of its table again, that of the
    old column too, and leaves a dead element in each.
    """
    statements = []
    for column in (self.old, self.new):
      for index in self.indices.get(column, ()):
        # What an interrupted build leaves is an index that no search uses.
        ours = column == self.new or '_cc' in index.name[1]
        if index.valid or ours:
          verb = 'REINDEX INDEX' if index.valid else 'DROP INDEX'
          name = sql.Identifier(*index.name)
          statements.append(sql.SQL(f'{verb} CONCURRENTLY {{}}').format(name))
    models = [i for i in self.indices.get(self.old, ()) if i.valid]
    good = any(i.valid for i in self.indices.get(self.new, ()))
    if models and not good:
      options = [
        sql.SQL('{} = {}').format(sql.Identifier(name), sql.Literal(value))
        for name, value in models[0].options.items()
      ]
      statements.append(
        self.statement(
          'CREATE INDEX CONCURRENTLY ON {table} USING {kind} ({new} {by})'
          + (' WITH ({options})' if options else ''),
          kind=sql.SQL(models[0].kind),
          by=sql.SQL(f'{self._kind(self.new)}_{distance}_ops'),
          options=sql.SQL(', ').join(options),
        )
      )
    return statements

  # The trigger that takes a changed item's new embedding away.

  def _trigger_sql(self, text, **parts):
    schema = self.names.table.split('.')[:-1]
    suffix = zlib.crc32(f'{self.names.table} {self.names.field}'.encode())
    function = sql.Identifier(*schema, f'fastfill_stale_{suffix:08x}')
    return self.statement(
      text, function=function, trigger=sql.Identifier('fastfill_stale'), **parts
    )

  def _stale_function(self, new):
    body = sql.SQL(
      'BEGIN NEW.{new} := NULL; NEW.{space} := {stale}; RETURN NEW; END'
    ).format(
      new=sql.Identifier(new),
      space=sql.Identifier(self.names.space),
      stale=sql.Literal(base.STALE),
    )
    return self._trigger_sql(
      'CREATE OR REPLACE FUNCTION {function}() RETURNS trigger '
      'LANGUAGE plpgsql AS {body}',
      body=_literal(body),
    )

  def _stale_trigger(self):
    watched = [self.old, self.names.revision]
    changed = sql.SQL(' OR ').join(
      sql.SQL('OLD.{0} IS DISTINCT FROM NEW.{0}').format(sql.Identifier(name))
      for name in watched
      if name
    )
    # Whoever writes a new embedding or its tag knows what he does.
    return [
      self._trigger_sql('DROP TRIGGER IF EXISTS {trigger} ON {table}'),
      self._trigger_sql(
        'CREATE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW WHEN '
        '(({changed}) AND NEW.{space} IS NOT DISTINCT FROM OLD.{space} '
        'AND NEW.{new} IS NOT DISTINCT FROM OLD.{new}) '
        'EXECUTE FUNCTION {function}()',
        changed=changed,
      ),
    ]


def _literal(body: sql.Composable) -> sql.Literal:
  return sql.Literal(body.as_string())
