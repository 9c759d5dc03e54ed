import cv2
import numpy as np
import pytest

from fastfill_jax.data import opening, pixels


def _png(value):
  return cv2.imencode('.png', np.full((4, 5, 3), value, np.uint8))[1].tobytes()


def test_digits():
  train, test = (opening.open_source('digits', s) for s in ('train', 'test'))
  assert (len(train), len(test)) == (1000, 797)
  assert train.num_classes == test.num_classes == 10
  assert train[0]['image'].shape == (8, 8, 1)
  assert train[0]['label'] == train.labels[0]
  images = {e['image'].tobytes() for s in (train, test) for e in s}
  assert len(images) == 1797
  assert max(e['image'].max() for e in test) == 255


def test_ids_are_distinct_over_splits():
  sources = [opening.open_source('digits', s) for s in ('train', 'test')]
  ids = np.concatenate([source.ids for source in sources])
  assert len(np.unique(ids)) == 1797
  assert ids.dtype == np.int32


def test_fake_has_the_shape_asked_for_and_repeats():
  options = {
    'image_size': 12,
    'channels': 1,
    'num_classes': 6,
    'num_groups': 2,
    'train_examples': 20,
    'test_examples': 9,
  }
  train, again, test = (
    opening.open_source('fake', split, **options)
    for split in ('train', 'train', 'test')
  )
  assert (len(train), len(test), train.num_classes) == (20, 9, 6)
  assert train[3]['image'].shape == (12, 12, 1)
  np.testing.assert_array_equal(train[3]['image'], again[3]['image'])
  assert not np.array_equal(train[3]['image'], test[3]['image'])
  groups = train.column('coarse_label')
  np.testing.assert_array_equal(groups, train.labels // 3)
  for wrong in ({'num_groups': 11}, {'num_classes': 0}, {'channels': 2}):
    with pytest.raises(ValueError, match='give 1'):
      opening.open_source('fake', 'train', **wrong)


@pytest.mark.parametrize('encoded', [False, True])
def test_fake_can_be_learnt(encoded):
  train, test = (
    np.stack([pixels.decode(e['image']).ravel() for e in source]).astype(float)
    for source in (
      opening.open_source('fake', split, image_size=16, encoded=encoded)
      for split in ('train', 'test')
    )
  )
  # The classes come in turn: the mean of each is told apart from the others'.
  means = np.stack([train[c::10].mean(0) for c in range(10)])
  nearest = np.linalg.norm(test[:, None] - means[None], axis=-1).argmin(1)
  np.testing.assert_array_equal(nearest, np.arange(128) % 10)


def test_image_folder(tmp_path):
  for split, identity, count in (
    ('train', 'n2', 2),
    ('train', 'n5', 1),
    ('test', 'n1', 1),
    ('test', 'n5', 2),
  ):
    folder = tmp_path / split / identity
    folder.mkdir(parents=True)
    for number in range(count):
      (folder / f'{number}.JPG').write_bytes(_png(number + ord(identity[1])))
    (folder / 'notes.txt').touch()
  train, test = (
    opening.open_source('image_folder', split, data_dir=tmp_path)
    for split in ('train', 'test')
  )
  # Training classes first, then the new ones; one number in both splits.
  assert train.label_names == test.label_names == ('n2', 'n5', 'n1')
  np.testing.assert_array_equal(train.labels, [0, 0, 1])
  np.testing.assert_array_equal(test.labels, [2, 1, 1])
  assert pixels.decode(test[2]['image'])[0, 0, 0] == 1 + ord('5')
  held = opening.open_source(
    'image_folder', 'test', data_dir=tmp_path, in_memory=True
  )
  assert held[2]['image'][0, 0, 0] == 1 + ord('5')
  (tmp_path / 'test' / 'n5' / '0.JPG').write_bytes(
    cv2.imencode('.png', np.zeros((9, 9, 3), np.uint8))[1].tobytes()
  )
  with pytest.raises(ValueError, match=r'\(4, 5, 3\) and row 1 is \(9, 9, 3\)'):
    opening.open_source(
      'image_folder', 'test', data_dir=tmp_path, in_memory=True
    )


def test_image_folder_refuses(tmp_path):
  for data_dir in (None, tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(FileNotFoundError, match='<data_dir>/train/<class>'):
      opening.open_source('image_folder', 'train', data_dir=data_dir)
  (tmp_path / 'train' / 'n1').mkdir(parents=True)
  with pytest.raises(ValueError, match=r"'test': choose from \['train'\]"):
    opening.open_source('image_folder', 'test', data_dir=tmp_path)
  with pytest.raises(ValueError, match='no image'):
    opening.open_source('image_folder', 'train', data_dir=tmp_path)


def test_unknown_splits_and_options_are_named():
  for name in ('digits', 'fake'):
    with pytest.raises(ValueError, match=r"\['test', 'train'\]"):
      opening.open_source(name, 'validation')
  for name, accepted in (
    ('digits', r'\[\]'),
    ('fake', "'image_size', .*'train_examples'"),
    ('image_folder', r'\[\]'),
  ):
    with pytest.raises(
      ValueError, match=rf"\['sise'\]: it accepts .*{accepted}"
    ):
      opening.open_source(name, 'train', sise=3)
