"""What people hold: vectors with or without ids, checked before any fit.

A path is NAME.npy, a folder of shards 00000.npy, 00001.npy, ..., an .npz with
`embedding` and perhaps `id` and `label`, or a Parquet or Arrow file with such
columns. Ids are integers or strings; those of .npy files lie in another file.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from fastfill_jax.forecast import columnar
from fastfill_jax.storage import arrays as sharded

_ROWS = 65_536
_HASHES = 2**26  # Hashes of ids compared at a time: half a gigabyte.


@dataclasses.dataclass(frozen=True)
class Vectors:
  """Rows of embeddings, and what came with them.

  Attributes:
    path: Where they were read, for messages.
    rows: Array-like [row, embedding].
    id: Array-like [row], integers or strings, or None.
    label: Array-like [row], or None.
    id_path: Where the ids were read, if elsewhere.
  """

  path: str
  rows: Any
  id: Any = None
  label: Any = None
  id_path: str = ''

  def __len__(self) -> int:
    return len(self.rows)

  def __reduce__(self):
    """Sent to another process as where it lies: that one opens it again."""
    return functools.partial(read, check=False), (self.path, self.id_path)

  def name(self, row: int) -> str:
    """How a message calls a row."""
    said = f'{self.path}: row {row}'
    return said if self.id is None else f'{said} (id {self.id[[row]][0]!s})'


def read(path: str, ids: str = '', *, check: bool = True) -> Vectors:
  """Opens vectors; nothing is copied that can be memory-mapped.

  Args:
    path: As in the module's text.
    ids: Where their ids lie, if not in the same file.
    check: Whether to read every row and refuse what is not finite, and ids
      that are empty or come twice.

  Raises:
    ValueError: Naming the file and the row of what is wrong.
  """
  arrays = _open(path)
  if ids:
    arrays['id'] = _open(ids).popitem()[1]
  vectors = Vectors(
    str(path),
    arrays['embedding'],
    arrays.get('id'),
    arrays.get('label'),
    str(ids),
  )
  _check_form(vectors)
  if check:
    if vectors.id is not None:
      check_ids(vectors)
    check_finite(vectors)
  return vectors


def column(path: str, name: str) -> Any:
  """A file's array [row] of that name, or its only one."""
  arrays = _open(path)
  array = arrays.get(name, arrays.get('embedding'))
  if array is None or len(array.shape) != 1:
    raise ValueError(f'{path} holds no {name} [row].')
  return array


def _open(path) -> dict[str, Any]:
  path = pathlib.Path(path)
  if not path.exists():
    raise ValueError(f'{path} is not there; has it moved?')
  if path.suffix in columnar.SUFFIXES:
    return dict(columnar.open_file(path))
  try:
    if path.is_dir():
      return {'embedding': sharded.ShardedArray(path)}
    if path.suffix == '.npz':
      with np.load(path) as arrays:
        return _of_npz(path, dict(arrays))
    return {'embedding': np.load(path, mmap_mode='r')}
  except (EOFError, OSError) as error:
    raise ValueError(f'{path} is empty or truncated: {error}') from None
  except ValueError as error:
    if 'mmap length' not in str(error):
      raise ValueError(f'{path}: {error}') from None
    raise ValueError(
      f'{_shortest(path)} is truncated: its header promises more rows than '
      'it holds.'
    ) from None


def _shortest(path):
  """The first file of a folder whose rows are not all there."""
  for file in sorted(path.glob('*.npy')) if path.is_dir() else ():
    try:
      np.load(file, mmap_mode='r')
    except ValueError:
      return file
  return path


def _of_npz(path, arrays):
  if 'embedding' not in arrays:
    wide = [name for name, array in arrays.items() if array.ndim == 2]
    if len(wide) != 1:
      raise ValueError(
        f'holds {sorted(arrays)}; an array `embedding` [row, embedding] would '
        'be read.'
      )
    arrays['embedding'] = arrays.pop(wide[0])
  return {k: v for k, v in arrays.items() if k in ('embedding', 'id', 'label')}


def _check_form(vectors):
  rows = vectors.rows
  if len(rows.shape) != 2 or 0 in rows.shape:
    raise ValueError(
      f'{vectors.path} must hold [row, embedding], not empty; it holds '
      f'{tuple(rows.shape)}.'
    )
  if rows.dtype.kind != 'f':
    raise ValueError(f'{vectors.path} must hold floats, not {rows.dtype}.')
  for name in ('id', 'label'):
    array = getattr(vectors, name)
    if array is None:
      continue
    if tuple(array.shape) != (len(rows),):
      raise ValueError(
        f'{vectors.path} has {len(rows)} rows and {tuple(array.shape)} {name}s.'
      )
    if np.asarray(array[:1]).dtype.kind not in 'biuU':
      raise ValueError(
        f'{vectors.path}: {name}s are integers or strings, not {array.dtype}.'
      )


def check_finite(vectors: Vectors):
  """Raises a ValueError that names the first row with NaN or infinity."""
  for start in range(0, len(vectors), _ROWS):
    rows = np.asarray(vectors.rows[start : start + _ROWS])
    # The sum of a row tells in one pass; a float16's may overflow.
    with np.errstate(over='ignore', invalid='ignore'):
      sums = rows.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(sums))
    if bad.size:
      raise ValueError(f'{vectors.name(start + int(bad[0]))} is not finite.')


def check_ids(vectors: Vectors):
  """Raises a ValueError if an id is empty or comes twice."""
  parts = -(-len(vectors) // _HASHES)
  for part in range(parts):
    hashes, rows = [], []
    for start in range(0, len(vectors), _ROWS):
      ids = np.asarray(vectors.id[start : start + _ROWS])
      if ids.dtype.kind == 'U' and (ids == '').any():
        row = start + int(np.argmax(ids == ''))
        raise ValueError(f'{vectors.path}: the id of row {row} is missing.')
      block = hash_ids(ids)
      mine = np.flatnonzero(block % np.uint64(parts) == part)
      hashes.append(block[mine])
      rows.append(start + mine)
    _check_once(vectors, np.concatenate(hashes), np.concatenate(rows))


def _check_once(vectors, hashes, rows):
  order = np.argsort(hashes, kind='stable')
  again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
  for place in again:
    first, second = rows[order[place]], rows[order[place + 1]]
    held = [vectors.id[[row]][0] for row in (first, second)]
    if held[0] == held[1]:
      raise ValueError(
        f'{vectors.path}: rows {first} and {second} share the id {held[0]!s}.'
      )


def hash_ids(ids: np.ndarray, seed: int = 0) -> np.ndarray:
  """A uint64 of every id [row], the same however wide its array is."""
  if ids.dtype.kind == 'U':
    width = ids.dtype.itemsize // 4
    letters = np.ascontiguousarray(ids).view(np.uint32).reshape(-1, width)
    values = np.zeros(len(ids), np.uint64)
    for letter in letters.T:
      held = letter != 0
      values[held] = values[held] * np.uint64(0x100000001B3) + letter[held]
  else:
    values = ids.astype(np.uint64)
  # splitmix64, whose every bit depends on every bit.
  values = values + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
  return values ^ (values >> np.uint64(31))


def find(ids: Any, wanted: np.ndarray) -> np.ndarray:
  """Rows of `ids` that hold the wanted ones, -1 where there is none.

  Args:
    ids: Array-like [row], read in blocks.
    wanted: Different ids [wanted].

  Raises:
    ValueError: If one side is integers and the other strings.
  """
  kinds = [np.asarray(x[:1]).dtype.kind == 'U' for x in (ids, wanted)]
  if kinds[0] != kinds[1]:
    names = ['strings' if kind else 'integers' for kind in kinds]
    raise ValueError(f'ids are {names[0]} in one file, {names[1]} in another.')
  order = np.argsort(wanted, kind='stable')
  ordered = wanted[order]
  found = np.full(len(wanted), -1, np.int64)
  for start in range(0, len(ids), _ROWS):
    block = np.asarray(ids[start : start + _ROWS])
    place = np.minimum(np.searchsorted(ordered, block), len(ordered) - 1)
    hit = np.flatnonzero(ordered[place] == block)
    found[order[place[hit]]] = start + hit
  return found


def guess_distance(*arrays: Any) -> str:
  """'cosine' if all rows looked at are of unit length, else 'l2'."""
  for rows in arrays:
    some = np.asarray(rows[: min(len(rows), 1000)], np.float64)
    width = 1e-3 if rows.dtype.itemsize > 2 else 1e-2
    if (np.abs(np.linalg.norm(some, axis=1) - 1) > width).any():
      return 'l2'
  return 'cosine'
