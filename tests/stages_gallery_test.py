import numpy as np
import pytest

from fastfill_jax import artifact, embeddings, gallery


@pytest.fixture
def split(tmp_path, monkeypatch):
  """Ten items in shards of four, aligned in blocks of three."""
  monkeypatch.setattr(gallery, '_SHARD_ROWS', 4)
  monkeypatch.setattr(gallery, '_BLOCK_ROWS', 3)
  rng = np.random.default_rng(0)
  arrays = {
    'old': rng.normal(size=(10, 3)).astype(np.float16),
    'new': rng.normal(size=(10, 3)).astype(np.float16),
    'side': rng.normal(size=(10, 2)).astype(np.float16),
    'label': np.arange(10),
    'id': np.arange(10),
  }
  for name, array in arrays.items():
    embeddings.write(tmp_path / 'gallery' / name, array, shard_rows=6)
  return gallery.Split(tmp_path / 'gallery')


def _apply(old, side):
  aligned = 2 * old.astype(np.float32)
  return aligned, side.astype(np.float32)


def test_shards_hold_what_the_alignment_gives(split, tmp_path):
  aligned, log_variance = gallery.write_aligned(_apply, split, tmp_path)
  old, side = split.arrays['old'][:], split.arrays['side'][:]
  np.testing.assert_array_equal(aligned[:], 2 * old)
  np.testing.assert_array_equal(log_variance[:], side)
  assert aligned.dtype == np.float16
  files = sorted(x.name for x in (tmp_path / 'aligned').iterdir())
  assert files == ['00000.npy', '00001.npy', '00002.npy']
  np.testing.assert_array_equal(gallery.open_aligned(tmp_path)[:], 2 * old)


def test_an_alignment_without_uncertainty(split, tmp_path):
  aligned, log_variance = gallery.write_aligned(
    lambda old, side: (old.astype(np.float32), None), split, tmp_path
  )
  assert log_variance is None
  np.testing.assert_array_equal(aligned[:], split.arrays['old'][:])


def test_a_shard_that_is_there_is_kept(split, tmp_path):
  gallery.write_aligned(_apply, split, tmp_path)
  (tmp_path / 'aligned' / '00001.npy').unlink()
  rows = []

  def apply(old, side):
    rows.append(len(old))
    return _apply(old, side)

  gallery.write_aligned(apply, split, tmp_path)
  assert rows == [3, 1]


@pytest.mark.parametrize('value', [np.nan, 1e6])
def test_what_float16_cannot_hold_is_refused(split, tmp_path, value):
  def apply(old, side):
    aligned, log_variance = _apply(old, side)
    return np.full_like(aligned, value), log_variance

  with pytest.raises(ValueError, match='not finite in float16'):
    gallery.write_aligned(apply, split, tmp_path)
  assert not (tmp_path / 'aligned').exists()


def test_errors_and_uncertainties_of_items(split, tmp_path):
  aligned, log_variance = gallery.write_aligned(_apply, split, tmp_path)
  old = split.arrays['old'][:].astype(np.float64)
  new = split.arrays['new'][:].astype(np.float64)
  error = gallery.squared_error(aligned, split.arrays['new'])
  np.testing.assert_allclose(
    error, np.linalg.norm(2 * old - new, axis=1) ** 2, rtol=1e-5
  )
  mean = gallery.mean_log_variance(log_variance)
  side = split.arrays['side'][:].astype(np.float64)
  np.testing.assert_allclose(mean, (side[:, 0] + side[:, 1]) / 2, rtol=1e-5)
  np.testing.assert_array_equal(gallery.mean_log_variance(mean), mean)


def test_query_and_gallery_may_be_one_split(split, tmp_path):
  del split
  embedded = artifact.Artifact('embed/seed0', '', tmp_path)
  query, items = gallery.open_splits(embedded)
  assert query is items
  embeddings.write(tmp_path / 'query' / 'label', np.arange(3))
  embeddings.write(tmp_path / 'query' / 'id', np.arange(3))
  query, items = gallery.open_splits(embedded)
  assert (len(query), len(items)) == (3, 10)
