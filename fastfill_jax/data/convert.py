"""Makes ArrayRecord data sets, without TensorFlow or Beam.

From data sets that TFDS prepared as TFRecord (every one below --from):
  python -m fastfill_jax.data.convert --from=~/tensorflow_datasets --to=DIR
From folders of images, `<from>/{train,test}/<class>/<image>.jpg`:
  python -m fastfill_jax.data.convert --from=VGGFace2 --to=DIR
which are then opened as 'vgg_face2'. Image bytes are copied as they are.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import sys
from collections.abc import Iterator, Sequence

from fastfill_jax.data import folders


def _crc_table() -> list[int]:
  table = []
  for byte in range(256):
    crc = byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's.
    table.append(crc)
  return table


_CRC_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
  """Computes TFRecord's checksum: CRC-32C, rotated, plus a constant."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_tfrecord(path: str | os.PathLike[str]) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  A record is its length (8 bytes), the length's checksum (4), the data, and
  the data's checksum (4). The length's checksum is verified, which finds a
  file that is none or a record that is not where it should be; the data's is
  not: in Python that would take hours for ImageNet.

  Args:
    path: the file.

  Yields:
    Every record's data.

  Raises:
    ValueError: the file is cut off or is no TFRecord file.
  """
  with open(path, 'rb') as file:
    offset = 0
    while header := file.read(12):
      if len(header) < 12:
        raise ValueError(f'{path} is cut off at byte {offset + len(header)}')
      length, checksum = struct.unpack('<QI', header)
      if masked_crc32c(header[:8]) != checksum:
        raise ValueError(
          f'{path} is damaged at byte {offset}, or no uncompressed TFRecord '
          'file: the checksum of a length is wrong'
        )
      body = file.read(length + 4)
      if len(body) < length + 4:
        raise ValueError(
          f'{path} is cut off at byte {offset + 12 + len(body)}: its last '
          f'record should end at byte {offset + 16 + length}'
        )
      yield body[:length]
      offset += 16 + length


def convert_tfrecord(
  source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> str:
  """Converts one version of one data set.

  Args:
    source: the folder of its dataset_info.json.
    target: the new folder; it appears when all is written.

  Returns:
    What was done, for the user.

  Raises:
    ValueError: the source is of another format, or a file is damaged or holds
      another number of records than dataset_info.json says.
  """
  source, target = pathlib.Path(source), pathlib.Path(target)
  if source.resolve() == target.resolve():
    raise ValueError(f'{source} would be overwritten: give another target')
  if (target / 'dataset_info.json').exists():
    return f'there already: {target}'
  info = json.loads((source / 'dataset_info.json').read_text())
  kind = info.get('fileFormat', 'tfrecord')
  if kind == 'array_record':
    return f'ArrayRecord already, left where it is: {source}'
  if kind != 'tfrecord':
    raise ValueError(f'{source} is prepared as {kind}: only tfrecord converts')
  part = target.with_name(f'{target.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  expected = sum(
    int(length) for s in info['splits'] for length in s['shardLengths']
  )
  copied = 0
  for path in sorted(source.iterdir()):
    if '.tfrecord' in path.name:
      name = path.name.replace('.tfrecord', '.array_record', 1)
      copied += _copy_records(path, part / name)
    elif path.is_file():
      shutil.copy(path, part)
  if copied != expected:
    raise ValueError(
      f'{source} holds {copied} records where its dataset_info.json says '
      f'{expected}'
    )
  info['fileFormat'] = 'array_record'
  (part / 'dataset_info.json').write_text(json.dumps(info, indent=2))
  part.rename(target)
  return f'converted: {target}'


def _copy_records(source: pathlib.Path, target: pathlib.Path) -> int:
  from array_record.python import array_record_module

  # One record to a group: any of them can be read alone.
  writer = array_record_module.ArrayRecordWriter(str(target), 'group_size:1')
  count = 0
  for record in read_tfrecord(source):
    writer.write(record)
    count += 1
  writer.close()
  return count


def convert_folders(
  source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> str:
  """Writes folders of images as the TFDS data set 'vgg_face2'.

  Args:
    source: the folder of the splits.
    target: the data_dir to write under.

  Returns:
    What was done, for the user.
  """
  from fastfill_jax.data import vgg_face2

  builder = vgg_face2.VggFace2(
    folder=os.fspath(source),
    data_dir=os.fspath(target),
    file_format='array_record',
  )
  if builder.is_prepared():
    return f'there already: {builder.data_path}'
  builder.download_and_prepare()
  return f'written: {builder.data_path}'


def main(argv: Sequence[str] | None = None):
  """Converts what is found, saying what is done."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--from', dest='source', required=True, metavar='DIR')
  parser.add_argument('--to', dest='target', required=True, metavar='DIR')
  flags = parser.parse_args(argv)
  source = pathlib.Path(flags.source).expanduser()
  target = pathlib.Path(flags.target).expanduser()
  prepared = sorted(path.parent for path in source.rglob('dataset_info.json'))
  if not prepared and not folders.splits(source):
    parser.error(
      f'--from={source}: neither a dataset_info.json below it nor folders '
      '<split>/<class>/<image>'
    )
  if not prepared:
    print(convert_folders(source, target))
  for folder in prepared:
    try:
      print(convert_tfrecord(folder, target / _relative(folder, source)))
    except ValueError as error:
      print(f'not converted: {error}', file=sys.stderr)
      sys.exit(1)


def _relative(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
  # TFDS finds a data set by <name>/<version>, whichever --from was given.
  if folder == source:
    return pathlib.Path(source.parent.name, source.name)
  return folder.relative_to(source)


if __name__ == '__main__':
  main()
