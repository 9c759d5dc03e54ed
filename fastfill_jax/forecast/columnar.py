"""Parquet and Arrow files as arrays: a column read group by group."""

import functools
import pathlib

import numpy as np

SUFFIXES = ('.parquet', '.arrow', '.feather')


class Column:
  """A column of a Parquet or Arrow file, sliced like a NumPy array.

  Only the groups of rows that are asked for are read; the last one is kept.
  """

  def __init__(self, path: pathlib.Path, name: str, example: np.ndarray):
    self._path, self._name = path, name
    self._ends = np.cumsum(_sizes(path))
    self.shape = (int(self._ends[-1]), *example.shape[1:])
    self.dtype, self.ndim = example.dtype, example.ndim

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows) -> np.ndarray:
    if isinstance(rows, slice):
      rows = np.arange(*rows.indices(len(self)))
    rows = np.asarray(rows)
    owner = np.searchsorted(self._ends, rows, side='right')
    groups = np.unique(owner)
    if not len(groups):
      return np.empty((0, *self.shape[1:]), self.dtype)
    parts, places = [], []
    for group in groups:
      places.append(np.flatnonzero(owner == group))
      held = _read_group(self._path, self._name, int(group))
      first = self._ends[group] - len(held)
      parts.append(held[rows[places[-1]] - first])
    whole = np.concatenate(parts)
    return whole[np.argsort(np.concatenate(places))]


def open_file(path: pathlib.Path) -> dict[str, Column]:
  """The columns 'embedding', 'id' and 'label' of a file, as far as it has them.

  The embedding is the only column of lists, or the one of that name.

  Raises:
    ValueError: If pyarrow is missing, or the file is not what it says.
  """
  schema = _schema(path)
  lists = [field.name for field in schema if _is_list(field.type)]
  if 'embedding' in lists:
    lists = ['embedding']
  if len(lists) != 1:
    raise ValueError(
      f'{path} has the columns of lists {lists}; one, or one named '
      "'embedding', would be read."
    )
  names = {'embedding': lists[0]}
  names |= {name: name for name in ('id', 'label') if name in schema.names}
  if not sum(_sizes(path)):
    raise ValueError(f'{path} has no rows.')
  return {
    kind: Column(path, name, _read_group(path, name, 0))
    for kind, name in names.items()
  }


def _arrow():
  try:
    import pyarrow.ipc
    import pyarrow.parquet
  except ImportError:
    raise ValueError(
      'Parquet and Arrow files need pyarrow: pip install '
      "'fastfill_jax[parquet]'."
    ) from None
  return pyarrow


@functools.lru_cache(4)
def _open(path):
  arrow = _arrow()
  try:
    if path.suffix == '.parquet':
      return arrow.parquet.ParquetFile(path)
    return arrow.ipc.open_file(arrow.memory_map(str(path)))
  except (arrow.ArrowInvalid, OSError) as error:
    raise ValueError(f'{path} is truncated or not Arrow: {error}') from None


def _schema(path):
  file = _open(path)
  return file.schema_arrow if path.suffix == '.parquet' else file.schema


def _sizes(path):
  """Rows of every group."""
  file = _open(path)
  if path.suffix == '.parquet':
    meta = file.metadata
    return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
  return [file.get_batch(i).num_rows for i in range(file.num_record_batches)]


def _is_list(kind):
  types = _arrow().types
  return (
    types.is_list(kind)
    or types.is_large_list(kind)
    or types.is_fixed_size_list(kind)
  )


@functools.lru_cache(4)
def _read_group(path, name, group):
  """One group of a column as NumPy."""
  file = _open(path)
  try:
    if path.suffix == '.parquet':
      table = file.read_row_group(group, columns=[name])
      column = table.column(name).combine_chunks()
    else:
      column = file.get_batch(group).column(name)
  except (_arrow().ArrowInvalid, OSError) as error:
    raise ValueError(f'{path} is truncated: {error}') from None
  first = sum(_sizes(path)[:group])
  if column.null_count:
    row = first + int(np.argmax(column.is_null().to_numpy(False)))
    raise ValueError(f'{path}: {name} is missing in row {row}.')
  if not _is_list(column.type):
    values = column.to_numpy(zero_copy_only=False)
    return values.astype(str) if values.dtype.kind == 'O' else values
  flat = column.flatten().to_numpy(zero_copy_only=False)
  if not _arrow().types.is_fixed_size_list(column.type):
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
      row = int(np.argmax(lengths != lengths[0]))
      raise ValueError(
        f'{path}: {name} has {lengths[row]} numbers in row {first + row} and '
        f'{lengths[0]} in row {first}.'
      )
  return flat.reshape(len(column), -1)
