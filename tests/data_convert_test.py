import gzip
import json
import struct

import flowers
import pytest
from array_record.python import array_record_module

from fastfill_jax.data import convert, opening, records


def _frame(record):
  """TFRecord's form; the checksums, which no one reads, are 0."""
  return struct.pack('<QI', len(record), 0) + record + bytes(4)


@pytest.fixture(scope='module')
def records_dir(tmp_path_factory):
  return flowers.write(tmp_path_factory.mktemp('tfds'))


@pytest.fixture
def tfrecord_dir(records_dir, tmp_path):
  """The same data set as TFDS writes it by default: as TFRecord."""
  source = records_dir / 'flowers' / '2.0.0'
  target = tmp_path / 'tfrecord' / 'flowers' / '2.0.0'
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
  source = opening.open_source('flowers', split, data_dir=data_dir)
  return [(e['image'], int(e['label'])) for e in source]


def test_tfrecord_becomes_the_same_records(
  records_dir, tfrecord_dir, tmp_path, capsys
):
  with pytest.raises(ValueError, match='prepared as tfrecord'):
    _contents(tfrecord_dir, 'train')
  command = [f'--from={tfrecord_dir}', f'--to={tmp_path / "new"}']
  convert.main(command)
  assert 'converted: ' in capsys.readouterr().out
  for split in ('train', 'validation'):
    new, old = (_contents(d, split) for d in (tmp_path / 'new', records_dir))
    assert new == old
  convert.main(command)
  assert 'there already: ' in capsys.readouterr().out


def test_one_version_lands_where_tfds_looks(tfrecord_dir, tmp_path):
  version = tfrecord_dir / 'flowers' / '2.0.0'
  convert.main([f'--from={version}', f'--to={tmp_path / "new"}'])
  assert records.find('flowers', tmp_path / 'new')


def test_converted_data_is_left_alone(records_dir, tmp_path, capsys):
  convert.main([f'--from={records_dir}', f'--to={tmp_path / "new"}'])
  assert 'ArrayRecord already' in capsys.readouterr().out
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda b: b[:-1], 'is cut off or damaged at byte'),
    (lambda b: b[: len(b) // 2], 'is cut off or damaged at byte'),
    (lambda b: b + b'abc', 'is cut off or damaged at byte'),
    (lambda b: b'\0' + b[1:], 'is cut off or damaged at byte'),
    (gzip.compress, 'damaged at byte 0, or no uncompressed'),
    (lambda b: b'', 'holds 4 records where .* says 11'),
    (lambda b: b + _frame(b'one more'), 'holds 12 records'),
  ],
)
def test_damage_is_noticed(damage, message, tfrecord_dir, tmp_path, capsys):
  version = tfrecord_dir / 'flowers' / '2.0.0'
  shard = version / 'flowers-train.tfrecord-00000-of-00001'
  whole = shard.read_bytes()
  shard.write_bytes(damage(whole))
  new = tmp_path / 'new'
  with pytest.raises(ValueError, match=message):
    convert.convert_tfrecord(version, new / 'flowers' / '2.0.0')
  with pytest.raises(SystemExit) as exit_:
    convert.main([f'--from={version}', f'--to={new}'])
  assert exit_.value.code == 1
  assert 'not converted: ' in capsys.readouterr().err
  # What is not whole is not taken for a data set, and does not stand in the
  # way of the next attempt.
  assert records.find('flowers', new) is None
  shard.write_bytes(whole)
  convert.main([f'--from={version}', f'--to={new}'])
  assert len(_contents(new, 'train')) == 7


def test_other_formats_and_places_are_refused(tfrecord_dir, tmp_path):
  version = tfrecord_dir / 'flowers' / '2.0.0'
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
  assert 'no dataset_info.json below it' in capsys.readouterr().err
