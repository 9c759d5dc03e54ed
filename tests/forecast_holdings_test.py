"""What people hold is read, and what is wrong with it named."""

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from fastfill_jax.forecast import evidence, holdings
from fastfill_jax.storage import arrays as sharded

_ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
_IDS = np.array(['a', 'b', 'ccc', 'd', 'e', 'f'])


def _table(ids=None, rows=_ROWS, fixed=True):
  flat = pyarrow.array(rows.ravel())
  lists = pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
  if not fixed:
    lists = pyarrow.array(rows.tolist(), pyarrow.list_(pyarrow.float32()))
  ids = _IDS.tolist() if ids is None else ids
  return pyarrow.table({'id': ids, 'vector': lists})


def _write(kind, path):
  if kind == 'npy':
    np.save(path / 'x.npy', _ROWS)
    np.save(path / 'id.npy', _IDS)
    return holdings.read(path / 'x.npy', path / 'id.npy')
  if kind == 'shards':
    sharded.write(path / 'x', _ROWS, 4)
    sharded.write(path / 'id', _IDS, 4)
    return holdings.read(path / 'x', path / 'id')
  if kind == 'npz':
    np.savez(path / 'x.npz', id=_IDS, vectors=_ROWS)
    return holdings.read(path / 'x.npz')
  if kind == 'arrow':
    with pyarrow.ipc.new_file(path / 'x.arrow', _table().schema) as writer:
      writer.write_table(_table(), max_chunksize=4)
    return holdings.read(path / 'x.arrow')
  table = _table(fixed=kind == 'parquet')
  pyarrow.parquet.write_table(table, path / 'x.parquet', row_group_size=4)
  return holdings.read(path / 'x.parquet')


@pytest.mark.parametrize(
  'kind', ['npy', 'shards', 'npz', 'arrow', 'parquet', 'lists']
)
def test_all_forms_read_the_same(kind, tmp_path):
  vectors = _write(kind, tmp_path)
  assert len(vectors) == 6
  np.testing.assert_array_equal(vectors.rows[:], _ROWS)
  np.testing.assert_array_equal(vectors.rows[3:5], _ROWS[3:5])
  rows = np.array([5, 0, 4])
  np.testing.assert_array_equal(vectors.rows[rows], _ROWS[rows])
  np.testing.assert_array_equal(vectors.id[rows], _IDS[rows])


def _refused(match, read, *arguments, **keywords):
  with pytest.raises(ValueError, match=match):
    read(*arguments, **keywords)


def test_wrong_rows_are_named_with_file_and_row(tmp_path):
  path = tmp_path / 'x.npy'
  bad = _ROWS.copy()
  bad[4, 1] = np.nan
  np.save(path, bad)
  np.save(tmp_path / 'id.npy', _IDS)
  _refused(r'x\.npy: row 4 \(id e\)', holdings.read, path, tmp_path / 'id.npy')
  np.save(path, _ROWS)
  np.save(tmp_path / 'id.npy', np.array(['a', 'b', 'c', 'b', 'e', 'f']))
  same = r'x\.npy: rows 1 and 3 share the id b'
  _refused(same, holdings.read, path, tmp_path / 'id.npy')
  np.save(tmp_path / 'id.npy', np.array(['a', '', 'c', 'b', 'e', 'f']))
  _refused('id of row 1 is missing', holdings.read, path, tmp_path / 'id.npy')
  np.save(tmp_path / 'id.npy', np.arange(5))
  _refused(r'6 rows and \(5,\) ids', holdings.read, path, tmp_path / 'id.npy')
  np.save(path, np.zeros((0, 4), np.float32))
  _refused('not empty', holdings.read, path)
  np.save(path, np.zeros((3, 4), int))
  _refused('must hold floats', holdings.read, path)
  _refused('has it moved', holdings.read, tmp_path / 'y.npy')


def test_truncated_files_are_named(tmp_path):
  sharded.write(tmp_path / 'x', np.ones((40, 8), np.float32), 16)
  last = tmp_path / 'x' / '00001.npy'
  last.write_bytes(last.read_bytes()[:-100])
  _refused(r'00001\.npy is truncated', holdings.read, tmp_path / 'x')
  pyarrow.parquet.write_table(_table(), tmp_path / 'x.parquet')
  held = (tmp_path / 'x.parquet').read_bytes()
  (tmp_path / 'y.parquet').write_bytes(held[:-20])
  _refused(r'y\.parquet is truncated', holdings.read, tmp_path / 'y.parquet')


def test_missing_ids_of_parquet_are_named(tmp_path):
  path = tmp_path / 'x.parquet'
  table = _table(['a', 'b', 'c', 'd', None, 'f'])
  pyarrow.parquet.write_table(table, path, row_group_size=3)
  _refused('id is missing in row 4', holdings.read, path)


def test_ids_are_compared_in_parts(monkeypatch):
  monkeypatch.setattr(holdings, '_HASHES', 10)
  ids = np.arange(100)
  vectors = holdings.Vectors('x', np.ones((100, 1)), ids)
  holdings.check_ids(vectors)
  ids[90] = 7
  _refused('rows 7 and 90', holdings.check_ids, vectors)


def test_hashes_ignore_the_width_of_the_array():
  short, wide = np.array(['ab', 'b']), np.array(['ab', 'b', 'longer'])
  np.testing.assert_array_equal(
    holdings.hash_ids(short), holdings.hash_ids(wide)[:2]
  )
  many = holdings.hash_ids(np.arange(10_000))
  assert len(np.unique(many)) == 10_000
  np.testing.assert_allclose((many / 2.0**64).mean(), 0.5, atol=0.02)


def test_find():
  rows = holdings.find(_IDS, np.array(['e', 'nobody', 'a']))
  np.testing.assert_array_equal(rows, [4, -1, 0])
  _refused('strings in one', holdings.find, _IDS, np.arange(3))


def test_unit_length_says_cosine():
  unit = _ROWS / np.linalg.norm(_ROWS, axis=1, keepdims=True)
  assert holdings.guess_distance(unit) == 'cosine'
  assert holdings.guess_distance(unit.astype(np.float16)) == 'cosine'
  assert holdings.guess_distance(unit, _ROWS) == 'l2'


def _sources(path, **more):
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((8, 3)).astype(np.float32)
  arrays = {
    'old': rows,
    'old_ids': np.array(list('hgfedcba')),
    'new': rows[[1, 3, 5]],
    'new_ids': np.array(list('gec')),
    'queries': rows[:2],
    'queries_ids': np.array(list('gx')),
  }
  for name, array in arrays.items():
    np.save(path / f'{name}.npy', array)
  names = {name: str(path / f'{name}.npy') for name in arrays}
  return evidence.Sources(**(names | more))


def test_pairs_are_joined_by_ids(tmp_path):
  held = evidence.gather(_sources(tmp_path))
  np.testing.assert_array_equal(held.sample.old, held.sample.new)
  assert held.gallery == 8
  # The query with an item's id is not that item.
  np.testing.assert_array_equal(held.sample.query_item, [-1, -1])


def test_pairs_that_do_not_fit(tmp_path):
  sources = _sources(tmp_path, new_ids='')
  _refused('has 8 rows', evidence.gather, sources)
  np.save(tmp_path / 'new_ids.npy', np.array(['g', 'e', 'nobody']))
  sources = _sources(tmp_path)
  np.save(tmp_path / 'new_ids.npy', np.array(['g', 'e', 'nobody']))
  _refused(r'row 2 \(id nobody\) is not in', evidence.gather, sources)


@pytest.mark.parametrize(
  'text, relevant, grade',
  [
    ('g 0 e 2\ng 0 c 0\nx 0 c 1\nz 0 c 1\nx 0 nobody 1\n', None, None),
    ('query-id\tcorpus-id\tscore\ng\te\t2\nx\tc\t1\n', None, None),
  ],
)
def test_qrels(text, relevant, grade, tmp_path):
  del relevant, grade
  (tmp_path / 'qrels').write_text(text)
  held = evidence.gather(_sources(tmp_path, qrels=str(tmp_path / 'qrels')))
  np.testing.assert_array_equal(held.sample.relevant, [[0, 1], [1, 2]])
  np.testing.assert_array_equal(held.sample.grade, [2, 1])


@pytest.mark.parametrize(
  'text, message',
  [
    ('g 0 e 2\ng e\n', 'qrels:2: '),
    ('g 0 e two\n', 'qrels:1: '),
    ('g 0 e 2\ng 0 e 1\n', 'qrels:2: g and e are judged twice'),
    ('g 0 nobody 1\n', '1 items without both'),
  ],
)
def test_wrong_qrels(text, message, tmp_path):
  (tmp_path / 'qrels').write_text(text)
  sources = _sources(tmp_path, qrels=str(tmp_path / 'qrels'))
  _refused(message, evidence.gather, sources)
