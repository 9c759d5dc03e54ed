"""LanceDB: a conditional merge writes a batch's vectors and tags as a version.

A merge of id, vector and tag leaves an item's other columns alone and inserts
nothing. Every batch is a version, so a snapshot is a version. The cut-over
renames two columns in one commit; stop the worker before a rollback, for
LanceDB has no lock that would keep its writes from the renamed column.
"""

import contextlib
import copy
import datetime

import lancedb
import numpy as np
import pyarrow as pa
from lancedb import index

from fastfill_jax.stores import base

_PIECE = 10_000
# Items written since are searched one by one: upkeep at this share of the
# table or this many.
_UPKEEP_SHARE = 0.1
_UPKEEP_ROWS = 100_000
_ATTEMPTS = 5
_VECTOR_INDICES = {
  'IvfFlat': index.IvfFlat,
  'IvfSq': index.IvfSq,
  'IvfPq': index.IvfPq,
  'IvfRq': index.IvfRq,
  'IvfHnswFlat': index.HnswFlat,
  'IvfHnswSq': index.HnswSq,
  'IvfHnswPq': index.HnswPq,
}


class LanceStore(base.Store):
  """A table of a LanceDB database.

  Args:
    uri: A folder, or what else `lancedb.connect` takes.
    names: Table and columns.

  Raises:
    ValueError: If the table or a column is not there, or no vector.
  """

  has_snapshots = True

  def __init__(self, uri: str, names: base.Names):
    super().__init__(names)
    # Always the latest version: other processes write, too.
    at_once = datetime.timedelta(0)
    self._database = lancedb.connect(uri, read_consistency_interval=at_once)
    try:
      self._table = self._database.open_table(names.table)
    except (ValueError, FileNotFoundError):
      raise ValueError(f'There is no table {names.table} in {uri}.') from None
    schema = self._table.schema
    for name in (names.id, names.field, names.revision):
      if name is not None and name not in schema.names:
        raise ValueError(
          f'{names.table} has no column {name!r}; it has '
          f'{", ".join(schema.names)}.'
        )
    if not pa.types.is_fixed_size_list(schema.field(names.field).type):
      raise ValueError(f'{names.field} is no column of vectors of one width.')

  def describe(self):
    schema = self._table.schema
    served = self._index(self.names.field)
    return base.Description(
      store=f'LanceDB {lancedb.__version__}, version {self._table.version}',
      old_dim=_width(schema, self._old(schema)),
      new_dim=_width(schema, self._new(schema)),
      serving=self._serving(schema),
      index=served and served.index_type,
      warnings=(
        'LanceDB has no triggers: who changes an item must set its '
        f'{self.names.space} to {base.STALE!r} and {self.names.new} to null.',
      ),
    )

  def _serving(self, schema):
    return 'new' if self.names.old in schema.names else 'old'

  def _old(self, schema):
    serving = self._serving(schema)
    return self.names.old if serving == 'new' else self.names.field

  def _new(self, schema):
    serving = self._serving(schema)
    return self.names.field if serving == 'new' else self.names.new

  def prepare(self, dim, distance, dry_run=False):
    base.choose_distance(distance)
    schema = self._table.schema
    there = _width(schema, self._new(schema))
    if there not in (None, dim):
      raise ValueError(f'{self._new(schema)} is {there} wide, the plan {dim}.')
    fields = []
    if there is None:
      kind = pa.list_(pa.float32(), dim)
      fields.append(pa.field(self.names.new, kind))
    if self.names.space not in schema.names:
      fields.append(pa.field(self.names.space, pa.string()))
    columns = [i.columns for i in self._table.list_indices()]
    indexed = [self.names.id] in columns
    if not dry_run:
      if fields:
        self._table.add_columns(fields)
      if not indexed:
        self._table.create_index(self.names.id, config=index.BTree())
    done = [f'add column {field.name}: {field.type}' for field in fields]
    return done if indexed else [*done, f'index column {self.names.id}']

  def scan(self):
    columns = [self.names.id]
    tagged = self.names.space in self._table.schema.names
    columns += [self.names.space] if tagged else []
    for batch in self._table.search().select(columns).to_batches(_PIECE):
      ids = base.check_ids(batch.column(self.names.id).to_pylist())
      spaces = [None] * len(ids)
      if tagged:
        spaces = batch.column(self.names.space).to_pylist()
      if len(ids):
        yield ids, base.objects(spaces)

  def read(self, ids, field='new'):
    ids, schema = base.check_ids(ids), self._table.schema
    tagged = self.names.space in schema.names
    columns = [self.names.id, self.names.space][: 1 + tagged]
    if self.names.revision:
      columns.append(self.names.revision)
    which = {'old': self._old, 'new': self._new}
    column = which[field](schema) if field else None
    dim = _width(schema, column)
    if dim is not None:
      columns.append(column)
    rows = pa.table({name: [] for name in columns})
    if len(ids):
      found = self._table.search().where(self._among(ids)).select(columns)
      rows = found.to_arrow()
    n = len(rows)
    spaces = rows[self.names.space].to_pylist() if tagged else [None] * n
    revisions = [None] * n
    if self.names.revision:
      revisions = rows[self.names.revision].cast(pa.string()).to_pylist()
    vectors = None
    if dim is not None:
      vectors = np.full((n, dim), np.nan, np.float32)
      filled = np.asarray(rows[column].is_valid().to_numpy())
      if filled.any():
        flat = rows[column].drop_null().combine_chunks().flatten()
        vectors[filled] = np.asarray(flat).reshape(-1, dim)
    return base.Items(
      base.check_ids(rows[self.names.id].to_pylist()),
      base.objects(spaces),
      base.objects(revisions),
      vectors,
    )

  def _among(self, ids):
    return f'{_name(self.names.id)} IN ({", ".join(map(_literal, ids))})'

  def search(self, query, k, distance, exact=False):
    base.choose_distance(distance)
    column = self._new(self._table.schema)
    ids, distances = [], []
    for vector in np.asarray(query, np.float32):
      search = self._table.search(vector, vector_column_name=column)
      search = search.distance_type(distance).limit(k)
      search = search.select([self.names.id, '_distance'])
      if exact:
        search = search.bypass_vector_index()
      found = search.to_arrow()
      ids.append(found[self.names.id].to_pylist())
      distances.append(found['_distance'].to_pylist())
    return np.array(ids), np.array(distances, float)

  @contextlib.contextmanager
  def snapshot(self, version: int | None = None):
    frozen = copy.copy(self)
    frozen._table = self._database.open_table(self.names.table)
    frozen._table.checkout(version or self._table.version)
    yield frozen

  def upkeep(self, distance, written=None):
    """Indexes what was written; when all is written, indexes anew."""
    rows = self._table.count_rows()
    if written is not None and written < min(
      _UPKEEP_SHARE * rows, _UPKEEP_ROWS
    ):
      return False
    schema = self._table.schema
    model = self._index(self._old(schema)) or self._index(self._new(schema))
    has = self._index(self._new(schema)) is not None
    if model and (written is None or not has):
      # Its partitions were trained on other embeddings.
      make = _VECTOR_INDICES[model.index_type]
      self._table.create_index(
        self._new(schema), config=make(distance_type=distance)
      )
    for _ in range(_ATTEMPTS):
      # It loses to a write that commits at the same time.
      with contextlib.suppress(RuntimeError, OSError):
        self._table.optimize()
        return True
    return False

  def _index(self, column):
    for found in self._table.list_indices():
      if found.columns == [column] and found.index_type in _VECTOR_INDICES:
        return found
    return None

  def cut_over(self):
    names, schema = self.names, self._table.schema
    if self._serving(schema) == 'new':
      return
    if names.new not in schema.names:
      raise ValueError(f'There is no new field to serve: {names.new}.')
    self._rename({names.field: names.old, names.new: names.field})

  def roll_back(self):
    names, schema = self.names, self._table.schema
    if self._serving(schema) == 'new':
      self._rename({names.field: names.new, names.old: names.field})

  def _rename(self, renames):
    """All in one commit."""
    self._table.alter_columns(
      *({'path': path, 'rename': name} for path, name in renames.items())
    )

  def clean_up(self):
    schema = self._table.schema
    unused = self._old(schema) if self._serving(schema) == 'new' else None
    columns = [unused or self.names.new, self.names.space]
    columns = [name for name in columns if name in schema.names]
    if columns:
      self._table.drop_columns(columns)

  def _write(self, ids, vectors, space, only_if, revisions):
    schema, names = self._table.schema, self.names
    tag = f'target.{_name(names.space)}'
    where = f'{tag} IS NULL'
    if only_if is not None:
      where = f'{tag} = {_literal(only_if)}'
    flat = pa.array(vectors.reshape(-1), pa.float32())
    batch = {
      names.id: pa.array(ids.tolist(), schema.field(names.id).type),
      self._new(schema): pa.FixedSizeListArray.from_arrays(
        flat, vectors.shape[1]
      ),
      names.space: pa.array([space] * len(ids), pa.string()),
    }
    if revisions is not None and names.revision:
      column = _name(names.revision)
      kind = schema.field(names.revision).type
      batch[names.revision] = pa.array(revisions.tolist(), pa.string()).cast(
        kind
      )
      target, source = f'target.{column}', f'source.{column}'
      null = f'{target} IS NULL AND {source} IS NULL'
      where += f' AND ({target} = {source} OR ({null}))'
    # The index on ids serves reads alone: LanceDB 0.40 panics when a merge of
    # some columns, with a condition, uses it.
    merge = self._table.merge_insert(names.id).use_index(False)
    merged = merge.when_matched_update_all(where=where).execute(pa.table(batch))
    if merged.num_updated_rows in (0, len(ids)):
      return ids[: merged.num_updated_rows]
    # Which they were: tagged otherwise in the version before.
    before, after = (
      self._tagged(ids, space, version)
      for version in (merged.version - 1, merged.version)
    )
    return ids[after & ~before]

  def _tagged(self, ids, space, version):
    with self.snapshot(version) as view:
      items = view.read(ids, None)
    return np.isin(ids, items.ids[items.spaces == space])


def _width(schema, column) -> int | None:
  if column is None or column not in schema.names:
    return None
  return schema.field(column).type.list_size


def _name(name: str) -> str:
  """An identifier as DataFusion reads it."""
  return '`' + name.replace('`', '``') + '`'


def _literal(value) -> str:
  if isinstance(value, (int, np.integer)):
    return str(int(value))
  return "'" + str(value).replace("'", "''") + "'"
