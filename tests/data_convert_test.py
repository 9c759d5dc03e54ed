import json
import struct

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module

from fastfill_jax import data
from fastfill_jax.data import convert


def _frame(record):
  length = struct.pack('<Q', len(record))
  checks = (convert.masked_crc32c(part) for part in (length, record))
  first, second = (struct.pack('<I', check) for check in checks)
  return length + first + record + second


def _faces(path):
  rng = np.random.default_rng(0)
  for split, name, count in (
    ('train', 'n2', 3),
    ('train', 'n1', 2),
    ('test', 'n3', 2),
  ):
    folder = path / split / name
    folder.mkdir(parents=True)
    for number in range(count):
      image = rng.integers(0, 256, (9, 7, 3), np.uint8)
      cv2.imwrite(str(folder / f'{number}.jpg'), image)
  return path


@pytest.fixture(scope='module')
def records_dir(tmp_path_factory):
  """Folders of images converted to records; a data_dir."""
  path = tmp_path_factory.mktemp('faces')
  convert.convert_folders(_faces(path / 'images'), path / 'records')
  return path / 'records'


@pytest.fixture
def tfrecord_dir(records_dir, tmp_path):
  """The same data set as TFDS writes it by default: as TFRecord."""
  source = records_dir / 'vgg_face2' / '1.0.0'
  target = tmp_path / 'tfrecord' / 'vgg_face2' / '1.0.0'
  target.mkdir(parents=True)
  for path in source.iterdir():
    name = path.name.replace('array_record', 'tfrecord')
    if name == path.name:
      (target / name).write_bytes(path.read_bytes())
      continue
    reader = array_record_module.ArrayRecordReader(str(path))
    framed = b''.join(_frame(record) for record in reader.read_all())
    (target / name).write_bytes(framed)
    reader.close()
  info = json.loads((target / 'dataset_info.json').read_text())
  info['fileFormat'] = 'tfrecord'
  (target / 'dataset_info.json').write_text(json.dumps(info))
  return tmp_path / 'tfrecord'


def _contents(data_dir, split):
  source = data.open_source('vgg_face2', split, data_dir=data_dir)
  return [(e['image'], int(e['label'])) for e in source]


def test_checksum():
  # CRC-32C's check value is that of '123456789': 0xE3069283.
  rotated = 0xE3069283 >> 15 | 0xE3069283 << 17 & 0xFFFFFFFF
  expected = (rotated + 0xA282EAD8) % 2**32
  assert convert.masked_crc32c(b'123456789') == expected


def test_folders_become_records_with_their_bytes(records_dir):
  folders = records_dir.parent / 'images'
  for split in ('train', 'test'):
    source = data.open_source('image_folder', split, data_dir=folders)
    expected = [(e['image'], int(e['label'])) for e in source]
    assert sorted(_contents(records_dir, split)) == sorted(expected)
  source = data.open_source('vgg_face2', 'test', data_dir=records_dir)
  assert source.label_names == ('n1', 'n2', 'n3')


def test_tfrecord_becomes_the_same_records(
  records_dir, tfrecord_dir, tmp_path, capsys
):
  with pytest.raises(ValueError, match='prepared as tfrecord'):
    _contents(tfrecord_dir, 'train')
  command = [f'--from={tfrecord_dir}', f'--to={tmp_path / "new"}']
  convert.main(command)
  assert 'converted: ' in capsys.readouterr().out
  for split in ('train', 'test'):
    new, old = (_contents(d, split) for d in (tmp_path / 'new', records_dir))
    assert new == old
  convert.main(command)
  assert 'there already: ' in capsys.readouterr().out


def test_one_version_lands_where_tfds_looks(tfrecord_dir, tmp_path):
  version = tfrecord_dir / 'vgg_face2' / '1.0.0'
  convert.main([f'--from={version}', f'--to={tmp_path / "new"}'])
  assert data.is_prepared('vgg_face2', tmp_path / 'new')


def test_folders_by_command(tmp_path, capsys):
  faces = _faces(tmp_path / 'images')
  command = [f'--from={faces}', f'--to={tmp_path / "new"}']
  convert.main(command)
  convert.main(command)
  assert 'there already: ' in capsys.readouterr().out
  assert len(_contents(tmp_path / 'new', 'train')) == 5


def test_converted_data_is_left_alone(records_dir, tmp_path, capsys):
  convert.main([f'--from={records_dir}', f'--to={tmp_path / "new"}'])
  assert 'ArrayRecord already' in capsys.readouterr().out
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda b: b[:-1], 'is cut off at byte'),
    (lambda b: b[: len(b) // 2], 'is cut off at byte'),
    (lambda b: b + b'abc', 'is cut off at byte'),
    (lambda b: b'\0' + b[1:], 'is damaged at byte 0'),
    (lambda b: b'', 'holds 2 records where .* says 7'),
    (lambda b: b + _frame(b'one more'), 'holds 8 records'),
  ],
)
def test_damage_is_noticed(damage, message, tfrecord_dir, tmp_path, capsys):
  version = tfrecord_dir / 'vgg_face2' / '1.0.0'
  shard = version / 'vgg_face2-train.tfrecord-00000-of-00001'
  whole = shard.read_bytes()
  shard.write_bytes(damage(whole))
  new = tmp_path / 'new'
  with pytest.raises(ValueError, match=message):
    convert.convert_tfrecord(version, new / 'vgg_face2' / '1.0.0')
  with pytest.raises(SystemExit) as exit_:
    convert.main([f'--from={version}', f'--to={new}'])
  assert exit_.value.code == 1
  assert 'not converted: ' in capsys.readouterr().err
  # What is not whole is not taken for a data set, and does not stand in the
  # way of the next attempt.
  assert not data.is_prepared('vgg_face2', new)
  shard.write_bytes(whole)
  convert.main([f'--from={version}', f'--to={new}'])
  assert len(_contents(new, 'train')) == 5


def test_other_formats_and_places_are_refused(tfrecord_dir, tmp_path):
  version = tfrecord_dir / 'vgg_face2' / '1.0.0'
  with pytest.raises(ValueError, match='would be overwritten'):
    convert.convert_tfrecord(version, version)
  info = version / 'dataset_info.json'
  info.write_text(info.read_text().replace('"tfrecord"', '"parquet"'))
  with pytest.raises(ValueError, match='is prepared as parquet'):
    convert.convert_tfrecord(version, tmp_path / 'new')


def test_a_folder_of_nothing(tmp_path, capsys):
  with pytest.raises(SystemExit) as exit_:
    convert.main([f'--from={tmp_path}', f'--to={tmp_path / "new"}'])
  assert exit_.value.code == 2
  assert 'neither a dataset_info.json' in capsys.readouterr().err
