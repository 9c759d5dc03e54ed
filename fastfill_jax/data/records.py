"""TFDS data sets prepared as ArrayRecord, read without TensorFlow."""

import json
import os
import pathlib
import re
import uuid
import zipfile
from collections.abc import Sequence

import numpy as np
from absl import logging

from fastfill_jax import choices
from fastfill_jax.data import sources

# What TFDS's catalogue says of the configs' sets.
_KNOWN = {
  'cifar100': 'To download: 160.71 MiB; prepared: 132.03 MiB.',
  'imagenet2012': 'To download: 144.7 GB; prepared: 155.84 GiB. Put '
  'ILSVRC2012_img_train.tar (138 GB) and ILSVRC2012_img_val.tar (6.7 GB) into '
  '{root}/downloads/manual.',
  'places365_small': 'To download: 29.27 GiB; prepared: about as much.',
}
_TEST_SPLITS = {'imagenet2012': 'validation', 'places365_small': 'validation'}


class Records(sources.Source):
  """One split of a TFDS data set; images stay the bytes they are on disk."""

  def __init__(
    self,
    name: str,
    split: str,
    *,
    data_dir: sources.Path | None = None,
    cache_dir: sources.Path | None = None,
    label_key: str = 'label',
  ):
    """Opens the records; see `opening.open_source`."""
    import tensorflow_datasets as tfds

    builder = _open_builder(name, data_dir)
    base = name.partition(':')[0]
    if split == 'test':
      split = _TEST_SPLITS.get(base, split)
    sources.check_split(name, split, list(builder.info.splits))
    info, features = builder.info.splits[split], builder.info.features
    _check_files([str(path) for path in info.filepaths], info.num_examples)

    kind = tfds.features.ClassLabel
    classes = sorted(k for k, v in features.items() if isinstance(v, kind))
    if label_key not in classes or 'image' not in features:
      raise ValueError(
        f'{name!r} has no image, or no class {label_key!r}: its features are '
        f'{sorted(features)}, label_key can be any of {classes}'
      )
    # Undecoded: the loader's threads decode, and reading labels does not.
    self._records = builder.as_data_source(
      split, decoders={'image': tfds.decode.SkipDecoding()}
    )
    self._name, self._split, self._label_key = name, split, label_key
    self._number_keys = [
      key
      for key, feature in features.items()
      if feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
    ]
    self._version = f'{base}:{builder.info.version}'
    self._cache = None
    if cache_dir is not None:
      file = f'columns-{base}-{builder.info.version}-{split}.npz'
      self._cache = pathlib.Path(cache_dir) / file.replace('/', '-')
    super().__init__(
      sources.make_ids(split, list(builder.info.splits), len(self._records)),
      features[label_key].names,
      features['image'].shape[-1] or 3,
    )

  def __getitems__(self, rows: Sequence[int]) -> list[dict]:
    """Reads many records: 40 us each, where one by one takes 170 us."""
    examples = self._records.__getitems__([int(row) for row in rows])
    return [
      {'image': e['image'], 'label': np.int32(e[self._label_key])}
      for e in examples
    ]

  def _content(self) -> bytes:
    return self._version.encode()

  def columns(self) -> dict[str, np.ndarray]:
    """All whole numbers the examples have, by name; int32 [example].

    The first call reads every record once, undecoded, unless `cache_dir` keeps
    the result of an earlier run.

    Raises:
      ValueError: the split has no labels.
    """
    if self._columns is None:
      held = self._cache and self._read_cache()
      if not held:
        held = self._read_columns()
        if self._cache:
          self._write_cache(held)
      self._columns = held | {'label': held[self._label_key]}
    if self._columns['label'].min(initial=0) < 0:
      raise ValueError(
        f'split {self._split!r} of {self._name!r} has no labels (they are -1)'
      )
    return self._columns

  def _read_columns(self) -> dict[str, np.ndarray]:
    logging.info('reading the labels of %s/%s', self._name, self._split)
    held = {k: np.empty(len(self), np.int32) for k in self._number_keys}
    for start in range(0, len(self), 1024):
      rows = list(range(start, min(start + 1024, len(self))))
      examples = self._records.__getitems__(rows)
      for key in self._number_keys:
        held[key][rows] = [example[key] for example in examples]
    return held

  def _read_cache(self) -> dict[str, np.ndarray]:
    """What the cache holds; nothing if it is none of this split."""
    if not self._cache.exists():
      return {}
    try:
      with open(self._cache, 'rb') as file:
        held = dict(np.load(file))
    except (ValueError, OSError, zipfile.BadZipFile) as error:
      logging.warning('%s is read anew: %s', self._cache, error)
      return {}
    sizes = {name: len(values) for name, values in held.items()}
    complete = sizes == dict.fromkeys(self._number_keys, len(self))
    return held if complete else {}

  def _write_cache(self, held: dict[str, np.ndarray]):
    self._cache.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: several machines may write the same file.
    part = self._cache.with_suffix(f'.{uuid.uuid4().hex}.npz')
    np.savez(part, **held)
    part.replace(self._cache)


def find(
  name: str, data_dir: sources.Path | None = None
) -> pathlib.Path | None:
  """The folder of a data set's dataset_info.json, or None.

  'cifar100', 'cifar100:3.0.2' or 'name/config'; without a version the newest.

  Raises:
    ValueError: a bucket's address.
  """
  root = _root(data_dir)
  base, _, version = name.partition(':')
  versions = {
    tuple(map(int, path.parent.name.split('.'))): path.parent
    for path in (root / base).glob('*/dataset_info.json')
    if re.fullmatch(r'\d+\.\d+\.\d+', path.parent.name)
    and version in ('', path.parent.name)
  }
  return versions[max(versions)] if versions else None


def _root(data_dir: sources.Path | None) -> pathlib.Path:
  if data_dir is None:
    data_dir = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  if '://' in str(data_dir):
    raise ValueError(
      f'data_dir={str(data_dir)!r}: ArrayRecord reads files; mount the bucket '
      '(gcsfuse) and give the folder'
    )
  return pathlib.Path(data_dir).expanduser()


def _open_builder(name: str, data_dir: sources.Path | None):
  """Opens a data set's description; only ArrayRecord goes on from there."""
  import tensorflow_datasets as tfds

  folder = find(name, data_dir)
  if folder is None:
    raise FileNotFoundError(_how_to_prepare(name, data_dir))
  text = (folder / 'dataset_info.json').read_text()
  kind = json.loads(text).get('fileFormat', 'tfrecord')
  if kind != 'array_record':
    raise ValueError(
      f'{folder} is prepared as {kind}, only array_record can be read without '
      'TensorFlow; convert a tfrecord one with: python -m '
      f'fastfill_jax.data.convert --from={folder} --to=DIR'
    )
  return tfds.builder_from_directory(str(folder))


def _check_files(paths: list[str], num_examples: int):
  """Looks at the end of every file, where it says how much it holds."""
  from array_record.python import array_record_data_source

  again = 'prepare the data set again, or copy it'
  missing = [path for path in paths if not os.path.exists(path)]
  if missing:
    raise FileNotFoundError(
      f'{len(missing)} of {len(paths)} record files are missing, such as '
      f'{missing[0]}: {again}'
    )
  try:
    found = len(array_record_data_source.ArrayRecordDataSource(paths))
  except RuntimeError as error:
    raise ValueError(
      f'a record file beside {paths[0]} is damaged: {error}; {again}'
    ) from error
  if found != num_examples:
    raise ValueError(
      f'{len(paths)} files such as {paths[0]} hold {found} records where '
      f'dataset_info.json says {num_examples}: {again}'
    )


def _how_to_prepare(name: str, data_dir: sources.Path | None) -> str:
  base, root = name.partition(':')[0], _root(data_dir)
  known = ('digits', 'fake', 'image_folder', *_KNOWN)
  near = '' if base in _KNOWN else choices.nearest(base, known)
  return (
    f'{name!r} is not prepared under {root}{near or "."} '
    f'{_KNOWN.get(base, "").format(root=root)} '
    "Once, in an environment with pip install 'tensorflow-cpu~=2.20.0' "
    'tensorflow-datasets importlib_resources array_record, run: python -c '
    f'"import tensorflow_datasets as t; t.builder({base!r}, '
    f"data_dir='{root}', file_format='array_record').download_and_prepare()\". "
    'If you have it as TFRecord: python -m fastfill_jax.data.convert --help.'
  )
