import numpy as np
import pytest

from fastfill_jax.storage import arrays


@pytest.fixture
def sharded(tmp_path):
  rows = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float16)
  arrays.write(tmp_path / 'old', rows, shard_rows=5)
  return rows, arrays.ShardedArray(tmp_path / 'old')


def test_reads_like_one_array(sharded):
  rows, array = sharded
  assert (array.shape, array.dtype, len(array)) == ((23, 3), rows.dtype, 23)
  np.testing.assert_array_equal(array[:], rows)
  np.testing.assert_array_equal(np.asarray(array), rows)
  picked = np.array([22, 0, 4, 5, 5, 13])
  np.testing.assert_array_equal(array[picked], rows[picked])


@pytest.mark.parametrize(
  'rows', [slice(3, 12), slice(5, 10), slice(-4, None), slice(0, 20, 7)]
)
def test_slices(sharded, rows):
  np.testing.assert_array_equal(sharded[1][rows], sharded[0][rows])


def test_empty_slice_keeps_the_width(sharded):
  assert sharded[1][7:7].shape == (0, 3)


def test_a_column_is_one_dimensional(tmp_path):
  arrays.write(tmp_path / 'label', np.arange(7), shard_rows=3)
  array = arrays.ShardedArray(tmp_path / 'label')
  np.testing.assert_array_equal(array[2:6], [2, 3, 4, 5])


@pytest.mark.parametrize('rows', [[-1], [23]])
def test_rows_out_of_range(sharded, rows):
  with pytest.raises(IndexError, match='23'):
    sharded[1][np.array(rows)]


def test_a_missing_shard_is_an_error(tmp_path):
  arrays.write(tmp_path, np.zeros((9, 2)), shard_rows=3)
  (tmp_path / '00001.npy').unlink()
  with pytest.raises(ValueError, match='Shard 1 is missing'):
    arrays.ShardedArray(tmp_path)


def test_shards_of_another_width_are_an_error(tmp_path):
  arrays.write_shard(tmp_path, 0, np.zeros((3, 2)))
  arrays.write_shard(tmp_path, 1, np.zeros((3, 4)))
  with pytest.raises(ValueError, match=r'00001.*\(4,\)'):
    arrays.ShardedArray(tmp_path)


def test_nothing_there_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='No embeddings'):
    arrays.ShardedArray(tmp_path)


def test_an_interrupted_write_leaves_no_shard(tmp_path, monkeypatch):
  def fail(file, rows):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(np, 'save', fail)
  with pytest.raises(OSError, match='disk full'):
    arrays.write_shard(tmp_path, 0, np.zeros((3, 2)))
  assert [shard for shard, _ in arrays.missing_shards(tmp_path, 3)] == [0]
