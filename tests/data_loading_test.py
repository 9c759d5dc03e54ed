import itertools

import numpy as np
import pytest
from absl import flags

from fastfill_jax.data import loading, opening, transforms

_KEYS = {'image', 'label', 'index'}


def _source(size=200):
  return opening.open_source(
    'fake', 'train', image_size=8, train_examples=size, num_classes=7
  )


def _loader(source, indices, name='pad_crop_flip', **changes):
  options = {'batch_size': 30, 'seed': 1, 'num_threads': 2} | changes
  stop = options.pop('num_steps', 9)
  batches = loading.loader(
    source, indices, transforms.make_transform(name), **options
  )
  return itertools.islice(batches, stop - options.get('start_step', 0))


def _in_order(source, indices, name='pad_crop_flip', **changes):
  options = {'batch_size': 30, 'seed': 1, 'num_threads': 2}
  return loading.batches_in_order(
    source, indices, transforms.make_transform(name), **(options | changes)
  )


def _assert_same(batches, others):
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


def test_batches_hold_what_they_say():
  source = _source()
  batch = next(_loader(source, np.arange(200), 'none'))
  assert batch.keys() == _KEYS
  assert batch['image'].shape == (30, 8, 8, 3)
  dtypes = [batch[key].dtype for key in ('image', 'label', 'index')]
  assert dtypes == [np.uint8, np.int32, np.int32]
  for i, row in enumerate(batch['index']):
    np.testing.assert_array_equal(batch['image'][i], source[row]['image'])
    assert batch['label'][i] == source.labels[row]


def test_every_epoch_is_a_new_permutation():
  indices = np.arange(0, 200, 2)
  batches = _loader(_source(), indices, 'none', batch_size=30, num_steps=10)
  seen = np.concatenate([batch['index'] for batch in batches])
  epochs = seen.reshape(3, 100)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), indices)
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[1], epochs[2])


def test_a_batch_may_be_larger_than_an_epoch():
  (batch,) = _loader(_source(), [3, 5, 8], batch_size=12, num_steps=1)
  assert np.bincount(batch['index'])[[3, 5, 8]].tolist() == [4, 4, 4]


@pytest.mark.parametrize('batch_size', [30, 150])  # One chunk, and three.
def test_the_same_seed_gives_the_same_batches(batch_size):
  source, indices = _source(), np.arange(200)
  first, threads, none, other = (
    list(_loader(source, indices, batch_size=batch_size, **changes))
    for changes in ({}, {'num_threads': 5}, {'num_threads': 0}, {'seed': 2})
  )
  _assert_same(first, threads)
  _assert_same(first, none)
  assert len(first) == 9
  assert not np.array_equal(first[0]['index'], other[0]['index'])


def test_an_example_is_augmented_anew_in_every_epoch():
  batches = list(_loader(_source(), [4], batch_size=1, num_steps=30))
  images = {batch['image'].tobytes() for batch in batches}
  assert len(images) > 15


@pytest.mark.parametrize('start_step', [1, 4, 8, 9])
@pytest.mark.parametrize('batch_size', [30, 150])
def test_resuming_equals_going_on(start_step, batch_size):
  source, indices = _source(), np.arange(101)
  whole = list(_loader(source, indices, batch_size=batch_size))
  rest = _loader(source, indices, batch_size=batch_size, start_step=start_step)
  _assert_same(whole[start_step:], list(rest))


@pytest.mark.parametrize('make', [_loader, _in_order])
@pytest.mark.parametrize('batch_size', [30, 300])
def test_processes_share_the_batch_of_one(make, batch_size):
  source, indices = _source(), np.arange(101)
  whole = make(source, indices, batch_size=batch_size)
  parts = [
    make(
      source, indices, batch_size=batch_size, process_index=p, process_count=2
    )
    for p in range(2)
  ]
  joined = [
    {key: np.concatenate([a[key], b[key]]) for key in a}
    for a, b in zip(*parts, strict=True)
  ]
  _assert_same(list(whole), joined)


def test_worker_processes_compute_the_same():
  source, indices = _source(), np.arange(200)
  whole = list(_loader(source, indices, batch_size=150, num_steps=3))
  parsed = flags.FLAGS.is_parsed()
  flags.FLAGS.mark_as_parsed()  # As app.run does; Grain asks for it.
  try:
    workers = list(
      _loader(
        source,
        indices,
        batch_size=150,
        num_steps=3,
        num_workers=2,
        num_threads=1,
      )
    )
  finally:
    if not parsed:
      flags.FLAGS.unparse_flags()
  _assert_same(whole, workers)


def test_simclr_gives_two_views():
  views = transforms.make_transform('simclr', size=8)
  batches = loading.loader(_source(), np.arange(9), views, batch_size=4, seed=0)
  assert next(batches)['image'].shape == (4, 2, 8, 8, 3)


def test_in_order_pads_and_masks_the_last_batch():
  source, indices = _source(), np.array([5, 3, 3, 9, 0, 7, 8])
  batches = list(_in_order(source, indices, 'none', batch_size=3))
  where = np.concatenate([batch['where'] for batch in batches])
  index = np.concatenate([batch['index'] for batch in batches])
  assert [len(batch['image']) for batch in batches] == [3, 3, 3]
  assert where.tolist() == [True] * 7 + [False] * 2
  np.testing.assert_array_equal(index[where], indices)
  assert index[~where].tolist() == [8, 8]
  image = np.concatenate([batch['image'] for batch in batches])
  np.testing.assert_array_equal(image[1], source[3]['image'])


def test_in_order_augmentation_depends_on_seed_view_and_row_alone():
  source = _source()

  def images(indices, **changes):
    batches = list(_in_order(source, indices, **changes))
    where = np.concatenate([batch['where'] for batch in batches])
    return np.concatenate([batch['image'] for batch in batches])[where]

  whole = images(np.arange(200))
  np.testing.assert_array_equal(whole[40:], images(np.arange(40, 200)))
  np.testing.assert_array_equal(whole, images(np.arange(200), batch_size=7))
  np.testing.assert_array_equal(
    whole[::-1], images(np.arange(200)[::-1], batch_size=200)
  )
  for changes in ({'view': 1}, {'seed': 2}):
    other = images(np.arange(200), **changes)
    same = (whole == other).all((1, 2, 3))
    assert same.mean() < 0.1  # 1 in 162 by chance.


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'indices': []}, 'no indices'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'batch_size': 31, 'process_count': 2}, 'multiple of the 2 processes'),
    ({'num_workers': -1}, 'num_workers=-1'),
  ],
)
def test_bad_arguments_are_refused_at_once(changes, message):
  changes = {'indices': [1]} | changes
  for make in (_loader, _in_order):
    with pytest.raises(ValueError, match=message):
      make(_source(), **changes)


def test_mixed_shapes_and_broken_images_are_named(tmp_path):
  import cv2

  folder = tmp_path / 'train' / 'a'
  folder.mkdir(parents=True)
  for size in (4, 5):
    cv2.imwrite(str(folder / f'{size}.png'), np.zeros((size, 4, 3), np.uint8))
  source = opening.open_source('image_folder', 'train', data_dir=tmp_path)
  with pytest.raises(ValueError, match=r'\(4, 4, 3\), \(5, 4, 3\)'):
    next(_in_order(source, [0, 1], 'none'))
  (folder / '5.png').write_bytes(b'nothing')
  with pytest.raises(ValueError, match='row 1: 7 bytes starting with'):
    next(_in_order(source, [0, 1], 'none'))
