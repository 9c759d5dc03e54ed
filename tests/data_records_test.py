import json
import pickle

import flowers
import numpy as np
import pytest
import tensorflow_datasets as tfds

from fastfill_jax.data import opening, pixels, records


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return flowers.write(tmp_path_factory.mktemp('tfds'))


def _numbers(source):
  """Tells the examples apart, whatever order they were written in."""
  return np.array([pixels.decode(e['image'])[0, 0, 0] for e in source])


def test_records_hold_what_was_written(data_dir):
  source = opening.open_source('flowers', 'train', data_dir=data_dir)
  assert len(source) == 7
  assert source.label_names == ('rose', 'tulip', 'aster')
  numbers = _numbers(source)
  np.testing.assert_array_equal(np.sort(numbers), np.arange(7))
  np.testing.assert_array_equal(source.labels, numbers % 3)
  np.testing.assert_array_equal(source.column('coarse_label'), numbers % 2)
  np.testing.assert_array_equal(source.column('height'), numbers * 10)
  bulk = source.__getitems__(np.array([4, 2]))
  assert [e['label'] for e in bulk] == [source.labels[4], source.labels[2]]
  assert bulk[0]['image'] == source[4]['image']
  with pytest.raises(ValueError, match=r"'name'.*'coarse_label', 'height'"):
    source.column('name')


def test_another_feature_can_be_the_label(data_dir):
  source = opening.open_source(
    'flowers', 'train', data_dir=data_dir, label_key='coarse_label'
  )
  numbers = _numbers(source)
  assert source.num_classes == 2
  np.testing.assert_array_equal(source.labels, numbers % 2)
  assert [e['label'] for e in source] == (numbers % 2).tolist()
  with pytest.raises(
    ValueError, match=r"'height'.*\['coarse_label', 'label'\]"
  ):
    opening.open_source(
      'flowers', 'train', data_dir=data_dir, label_key='height'
    )


def test_records_in_memory(data_dir):
  source = opening.open_source('flowers', 'train', data_dir=data_dir)
  held = opening.open_source(
    'flowers', 'train', data_dir=data_dir, in_memory=True
  )
  for row in range(7):
    np.testing.assert_array_equal(
      held[row]['image'], pixels.decode(source[row]['image'])
    )
  np.testing.assert_array_equal(held.labels, source.labels)
  np.testing.assert_array_equal(held.ids, source.ids)
  np.testing.assert_array_equal(held.column('height'), source.column('height'))


def test_records_cross_to_worker_processes(data_dir):
  source = opening.open_source('flowers', 'train', data_dir=data_dir)
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy.labels, source.labels)
  assert copy[3]['image'] == source[3]['image']


def test_labels_are_kept_on_disk(data_dir, tmp_path, monkeypatch):
  def open_():
    return opening.open_source(
      'flowers', 'train', data_dir=data_dir, cache_dir=tmp_path / 'cache'
    )

  labels = open_().labels
  (kept,) = (tmp_path / 'cache').iterdir()
  assert kept.name == 'columns-flowers-2.0.0-train.npz'
  with monkeypatch.context() as patch:
    patch.setattr(records.Records, '_read_columns', None)  # Not called.
    np.testing.assert_array_equal(open_().labels, labels)
  # A file of something else is read anew and replaced.
  np.savez(kept, label=np.zeros(7, np.int32))
  np.testing.assert_array_equal(open_().labels, labels)
  short = dict.fromkeys(('label', 'coarse_label', 'height'), labels[1:])
  np.savez(kept, **short)
  np.testing.assert_array_equal(open_().labels, labels)
  kept.write_bytes(kept.read_bytes()[:50])
  np.testing.assert_array_equal(open_().labels, labels)
  with np.load(kept) as stored:
    np.testing.assert_array_equal(stored['label'], labels)


def test_test_means_the_labelled_split(data_dir, monkeypatch):
  unlabelled = opening.open_source('flowers', 'test', data_dir=data_dir)
  with pytest.raises(ValueError, match="'test' of 'flowers' has no labels"):
    unlabelled.labels  # noqa: B018
  monkeypatch.setitem(records._TEST_SPLITS, 'flowers', 'validation')
  assert len(opening.open_source('flowers', 'test', data_dir=data_dir)) == 3


def test_the_newest_version_unless_named(data_dir, tmp_path):
  for version in ('2.0.0', '9.0.0', '10.0.0', '11.0.0.incompleteX'):
    folder = tmp_path / 'flowers' / version
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').touch()
  assert records.find('flowers', tmp_path).name == '10.0.0'
  assert records.find('flowers:9.0.0', tmp_path).name == '9.0.0'
  assert records.find('flowers:3.0.0', tmp_path) is None


def test_a_missing_data_set_says_how_to_prepare_it(tmp_path, monkeypatch):
  def message(name):
    with pytest.raises(FileNotFoundError) as error:
      opening.open_source(name, 'train', data_dir=tmp_path)
    return str(error.value)

  assert f"'cifar100' is not prepared under {tmp_path}" in message('cifar100')
  assert "data_dir='" in message('cifar100')
  assert '160.71 MiB; prepared: 132.03 MiB' in message('cifar100')
  assert 'ILSVRC2012_img_train.tar (138 GB)' in message('imagenet2012')
  assert "did you mean 'cifar100'?" in message('cifar_100')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'there'))
  with pytest.raises(FileNotFoundError, match='/there'):
    opening.open_source('cifar100', 'train')
  with pytest.raises(ValueError, match='mount the bucket'):
    opening.open_source('cifar100', 'train', data_dir='gs://bucket/tfds')


def test_unknown_splits_are_named(data_dir):
  with pytest.raises(ValueError, match=r"'val': choose from .*'validation'"):
    opening.open_source('flowers', 'val', data_dir=data_dir)


def test_unknown_options_are_named(data_dir):
  with pytest.raises(ValueError, match=r"\['sise'\]: .* \['label_key'\]"):
    opening.open_source('flowers', 'train', data_dir=data_dir, sise=3)


def _copy(data_dir, tmp_path):
  source = data_dir / 'flowers' / '2.0.0'
  target = tmp_path / 'flowers' / '2.0.0'
  target.mkdir(parents=True)
  for path in source.iterdir():
    (target / path.name).write_bytes(path.read_bytes())
  return target


def test_other_formats_name_the_converter(data_dir, tmp_path):
  folder = _copy(data_dir, tmp_path)
  info = json.loads((folder / 'dataset_info.json').read_text())
  for kind in ('tfrecord', None):  # TFDS once left it out.
    info.pop('fileFormat')
    info |= {'fileFormat': kind} if kind else {}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    with pytest.raises(ValueError, match=f'data.convert --from={folder}'):
      opening.open_source('flowers', 'train', data_dir=tmp_path)


@pytest.mark.parametrize('said', [6, 8])
def test_another_number_of_records_is_noticed(said, data_dir, tmp_path):
  info = _copy(data_dir, tmp_path) / 'dataset_info.json'
  info.write_text(info.read_text().replace('"7"', f'"{said}"'))
  with pytest.raises(ValueError, match=f'hold 7 records .* says {said}'):
    opening.open_source('flowers', 'train', data_dir=tmp_path)


def test_lost_and_damaged_files_are_noticed(data_dir, tmp_path):
  folder = _copy(data_dir, tmp_path)
  shard = folder / 'flowers-train.array_record-00000-of-00001'
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(ValueError, match=f'beside {shard} is damaged'):
    opening.open_source('flowers', 'train', data_dir=tmp_path)
  shard.unlink()
  with pytest.raises(FileNotFoundError, match='1 of 1 record files'):
    opening.open_source('flowers', 'train', data_dir=tmp_path)
  # The other split is whole.
  assert (
    len(opening.open_source('flowers', 'validation', data_dir=tmp_path)) == 3
  )


@pytest.mark.parametrize(
  ('name', 'num_classes'),
  [('cifar100', 100), ('imagenet2012', 1000), ('places365_small', 365)],
)
def test_labels_of_real_data_sets(name, num_classes, tmp_path):
  builder = tfds.builder(name, data_dir=tmp_path, file_format='array_record')
  assert builder.info.features['label'].num_classes == num_classes
