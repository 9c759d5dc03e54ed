import numpy as np
import pytest

from fastfill_jax.methods import method
from fastfill_jax.stages import gallery
from fastfill_jax.storage import arrays, artifact, splits


@pytest.fixture
def split(tmp_path, monkeypatch):
  """Ten items in shards of four, aligned in blocks of three."""
  monkeypatch.setattr(arrays, '_SHARD_ROWS', 4)
  monkeypatch.setattr(splits, '_BLOCK_ROWS', 3)
  rng = np.random.default_rng(0)
  held = {
    'old': rng.normal(size=(10, 3)).astype(np.float16),
    'new': rng.normal(size=(10, 3)).astype(np.float16),
    'side': rng.normal(size=(10, 2)).astype(np.float16),
    'label': np.arange(10),
    'id': np.arange(10),
  }
  for name, array in held.items():
    arrays.write(tmp_path / 'gallery' / name, array, shard_rows=6)
  return splits.Split(_embedded(tmp_path), 'gallery')


def _embedded(directory):
  return {'old': artifact.Artifact('embed/old/seed0', '', directory, '')}


def _align(old, side):
  aligned = 2 * old.astype(np.float32)
  return aligned, None if side is None else side.astype(np.float32)


def _write(split, directory, align=_align, side=True):
  if not side:
    split._folders.pop('side')
  return gallery.write_aligned(method.Maps(align), split, 'old', directory)


def test_shards_hold_what_the_alignment_gives(split, tmp_path):
  aligned, log_variance = _write(split, tmp_path)
  old, side = split['old'][:], split['side'][:]
  np.testing.assert_array_equal(aligned[:], 2 * old)
  np.testing.assert_array_equal(log_variance[:], side)
  assert aligned.dtype == np.float16
  files = sorted(x.name for x in (tmp_path / 'aligned').iterdir())
  assert files == ['00000.npy', '00001.npy', '00002.npy']


def test_an_alignment_without_uncertainty(split, tmp_path):
  aligned, log_variance = _write(split, tmp_path, side=False)
  assert log_variance is None
  np.testing.assert_array_equal(aligned[:], 2 * split['old'][:])


def test_a_shard_that_is_there_is_kept(split, tmp_path):
  _write(split, tmp_path)
  (tmp_path / 'aligned' / '00001.npy').unlink()
  rows = []

  def align(old, side):
    rows.append(len(old))
    return _align(old, side)

  _write(split, tmp_path, align)
  assert rows == [3, 1]


@pytest.mark.parametrize('value', [np.nan, 1e6])
def test_what_float16_cannot_hold_is_refused(split, tmp_path, value):
  def align(old, side):
    aligned, log_variance = _align(old, side)
    return np.full_like(aligned, value), log_variance

  with pytest.raises(ValueError, match='not finite in float16'):
    _write(split, tmp_path, align)
  assert not (tmp_path / 'aligned').exists()


def test_new_embeddings_are_mapped_and_fused(split, tmp_path):
  aligned, _ = _write(split, tmp_path)
  new = split['new']

  def write(query, fuse, name):
    maps = method.Maps(_align, query)
    return gallery.write_new(maps, new, aligned, fuse, tmp_path / name)

  assert write(None, 0, 'same') is new
  assert not (tmp_path / 'same').exists()
  exact = 0.75 * new[:].astype(float) + 0.25 * aligned[:].astype(float)
  fused = write(None, 0.25, 'fused')
  np.testing.assert_allclose(fused[:], exact, rtol=2e-3, atol=1e-4)
  assert fused.dtype == np.float16
  mapped = write(lambda x: -x.astype(np.float32), 0, 'mapped')
  np.testing.assert_array_equal(mapped[:], -new[:])
  both = write(lambda x: -x.astype(np.float32), 0.5, 'both')
  exact = (aligned[:].astype(float) - new[:]) / 2
  np.testing.assert_allclose(both[:], exact, rtol=2e-3, atol=1e-3)


def test_errors_and_uncertainties_of_items(split, tmp_path):
  aligned, log_variance = _write(split, tmp_path)
  old = split['old'][:].astype(np.float64)
  new = split['new'][:].astype(np.float64)
  error = gallery.squared_error(aligned, split['new'])
  np.testing.assert_allclose(
    error, np.linalg.norm(2 * old - new, axis=1) ** 2, rtol=1e-5
  )
  mean = gallery.mean_log_variance(log_variance)
  side = split['side'][:].astype(np.float64)
  np.testing.assert_allclose(mean, (side[:, 0] + side[:, 1]) / 2, rtol=1e-5)
  np.testing.assert_array_equal(gallery.mean_log_variance(mean), mean)
