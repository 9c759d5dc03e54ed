import numpy as np
import pytest

from fastfill_jax.storage import arrays, artifact, splits


@pytest.fixture
def embedded(tmp_path):
  """Two encoders of twelve pairs in two views, and three columns."""
  held = {}
  for i, name in enumerate(('old', 'new')):
    directory = tmp_path / name
    for view in (0, 1):
      rows = 100 * view + 1000 * i + np.arange(12)[:, None]
      arrays.write(directory / f'train/view{view}/{name}', rows, shard_rows=5)
    arrays.write(directory / 'gallery' / name, np.zeros((4, 2)))
    held[name] = artifact.Artifact(f'embed/{name}', '', directory, '')
  for column, rows in (('train/label', 12), ('gallery/id', 4)):
    arrays.write(tmp_path / 'columns' / column, np.arange(rows))
  held['columns'] = artifact.Artifact(
    'embed/columns', '', tmp_path / 'columns', ''
  )
  return held


def test_arrays_of_several_results_are_one_split(embedded):
  gallery = splits.Split(embedded, 'gallery')
  assert (len(gallery), 'old' in gallery, 'side' in gallery) == (4, True, False)
  assert gallery['new'].shape == (4, 2)
  assert (gallery.get('side'), gallery.column('label')) == (None, None)
  with pytest.raises(ValueError, match=r"No 'side', only \['id', 'new', 'old"):
    gallery['side']


def test_query_and_gallery_may_be_one_split(embedded, tmp_path):
  query, items = splits.evaluated(embedded)
  assert query is items
  arrays.write(tmp_path / 'columns/query/id', np.arange(3))
  query, items = splits.evaluated(embedded)
  assert (len(query), len(items)) == (3, 4)


def test_an_epoch_is_a_permutation_of_a_view(embedded):
  pairs = splits.Pairs(embedded)
  assert 'label' in pairs
  assert 'side' not in pairs
  views = pairs.arrays(('old', 'new', 'label'))
  batches = splits.batches(views, 5, seed=3, start=0)
  epochs = []
  for epoch in range(3):
    rows = []
    for _ in range(12 // 5):
      batch = next(batches)
      assert {len(x) for x in batch.values()} == {5}
      # Rows of one item and one view, in all arrays.
      np.testing.assert_array_equal(
        batch['old'][:, 0], batch['label'] + 100 * (epoch % 2)
      )
      np.testing.assert_array_equal(batch['new'], batch['old'] + 1000)
      rows += batch['label'].tolist()
    assert len(set(rows)) == 10
    epochs.append(rows)
  assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize('start', [1, 2, 5])
def test_batches_go_on_from_a_step(embedded, start):
  views = splits.Pairs(embedded).arrays(('old', 'label'))
  whole = splits.batches(views, 5, seed=0, start=0)
  for _ in range(start):
    next(whole)
  part = splits.batches(views, 5, seed=0, start=start)
  for _ in range(6):
    ours, theirs = next(part), next(whole)
    np.testing.assert_array_equal(ours['old'], theirs['old'])


def test_blocks_hold_every_row_of_every_view(embedded, monkeypatch):
  monkeypatch.setattr(splits, '_BLOCK_ROWS', 5)
  views = splits.Pairs(embedded).arrays(('old', 'new'))
  blocks = list(splits.blocks(views, 'new', 'old'))
  assert [len(new) for new, _ in blocks] == [5, 5, 2] * 2
  old = np.concatenate([old for _, old in blocks])[:, 0]
  np.testing.assert_array_equal(old, [*range(12), *range(100, 112)])
  assert old.dtype == np.float32
