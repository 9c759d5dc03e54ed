"""Converts data sets that TFDS prepared as TFRecord, without TensorFlow.

  python -m fastfill_jax.data.convert --from=~/tensorflow_datasets --to=DIR

Every one below --from becomes ArrayRecord; examples are copied as they are.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import sys
from collections.abc import Iterator, Sequence


def read_tfrecord(path: str | os.PathLike[str]) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  A record is its length (8 bytes), the length's checksum (4), the data, and
  the data's checksum (4). Checksums are not verified: in Python that would take
  hours for ImageNet. A file that is none says lengths that lead beyond its end.

  Raises:
    ValueError: the file is cut off or is no TFRecord file.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    while (offset := file.tell()) < size:
      header = file.read(12)
      end = size + 1
      if len(header) == 12:
        end = offset + 16 + struct.unpack('<Q', header[:8])[0]
      if end > size:
        raise ValueError(
          f'{path} is cut off or damaged at byte {offset}, or no uncompressed '
          'TFRecord file'
        )
      yield file.read(end - offset - 16)
      file.seek(end)


def convert_tfrecord(
  source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> str:
  """Converts one version of one data set, and says what was done.

  `source` is the folder of its dataset_info.json; `target` appears when all is
  written.

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
  lengths = [int(x) for split in info['splits'] for x in split['shardLengths']]
  copied = 0
  for path in sorted(source.iterdir()):
    if '.tfrecord' in path.name:
      name = path.name.replace('.tfrecord', '.array_record', 1)
      copied += _copy_records(path, part / name)
    elif path.is_file():
      shutil.copy(path, part)
  if copied != sum(lengths):
    raise ValueError(
      f'{source} holds {copied} records where its dataset_info.json says '
      f'{sum(lengths)}'
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
  if not prepared:
    parser.error(f'--from={source}: no dataset_info.json below it')
  for folder in prepared:
    # TFDS finds a data set by <name>/<version>, whichever --from was given.
    root = source if folder != source else source.parent.parent
    try:
      print(convert_tfrecord(folder, target / folder.relative_to(root)))
    except ValueError as error:
      print(f'not converted: {error}', file=sys.stderr)
      sys.exit(1)


if __name__ == '__main__':
  main()
