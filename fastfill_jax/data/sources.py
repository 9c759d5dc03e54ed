"""Labelled images by row number, held in memory or made up.

Every data set is a `Source`; records on disk are in records.py, folders of
images in folders.py, and `open_source` (opening.py) finds them by name.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence

import cv2
import numpy as np

from fastfill_jax.data import pixels

Path = str | os.PathLike[str]
# Rows of different splits never share an id, and ids fit 32 bits.
_ROWS_PER_SPLIT = 2**28
_SPLITS = ('test', 'train')


class Source:
  """One split of a data set.

  `source[row]` is a dict of 'image' (uint8 [height, width, channel], or the
  bytes of an image file) and 'label' (int); `source.__getitems__(rows)` reads
  many at once, which is several times faster for records on disk.

  Attributes:
    ids: int32 [example], distinct over all splits of the data set, so that a
      query finds itself in the gallery, and only itself.
    label_names: every class's name, by number; of all splits.
    channels: 1 for grey images, 3 for RGB.
  """

  def __init__(
    self,
    ids: np.ndarray,
    label_names: Sequence[str],
    channels: int = 3,
    columns: dict[str, np.ndarray] | None = None,
  ):
    self.ids = ids
    self.label_names = tuple(label_names)
    self.channels = channels
    self._columns = columns

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, row: int) -> dict:
    if not 0 <= row < len(self):  # Which also ends a `for` over the source.
      raise IndexError(f'row {row} of {len(self)}')
    return self.__getitems__([row])[0]

  def __getitems__(self, rows: Sequence[int]) -> list[dict]:
    """Reads many examples at once."""
    return [{'image': self._image(i), 'label': self.labels[i]} for i in rows]

  def _image(self, row: int) -> np.ndarray | bytes:
    raise NotImplementedError

  @property
  def num_classes(self) -> int:
    """Number of classes of all splits together."""
    return len(self.label_names)

  @property
  def labels(self) -> np.ndarray:
    """Class numbers, int32 [example]."""
    return self.columns()['label']

  def column(self, name: str) -> np.ndarray:
    """One of `columns`, such as CIFAR-100's 'coarse_label', its superclasses.

    Raises:
      ValueError: the data set has no such column.
    """
    columns = self.columns()
    if name not in columns:
      raise ValueError(f'no column {name!r}: choose from {sorted(columns)}')
    return columns[name]

  def columns(self) -> dict[str, np.ndarray]:
    """All whole numbers the examples have, by name; int32 [example]."""
    return self._columns

  def fingerprint(self) -> str:
    """A hash that tells these examples from others, wherever they lie."""
    digest = hashlib.sha256(repr((self.label_names, len(self))).encode())
    digest.update(np.ascontiguousarray(self.labels))
    digest.update(self._content())
    return digest.hexdigest()[:16]

  def _content(self) -> bytes:
    """What a fingerprint reads beside the labels; cheap to come by."""
    return b''


class ArraySource(Source):
  """Images held in one array, uint8 [example, height, width, channel]."""

  def __init__(
    self,
    images: np.ndarray,
    columns: dict[str, np.ndarray],
    ids: np.ndarray,
    label_names: Sequence[str],
  ):
    columns = {k: np.asarray(v, np.int32) for k, v in columns.items()}
    super().__init__(ids, label_names, images.shape[-1], columns)
    self._images = images

  def _image(self, row):
    return self._images[row]

  def _content(self) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(self._images)).digest()


def digits(split: str) -> ArraySource:
  """Opens scikit-learn's handwritten digits, 8x8 pixels, 10 classes.

  Its 1,797 images are split once and for all: 1,000 'train', 797 'test'.
  """
  import sklearn.datasets

  check_split('digits', split, _SPLITS)
  bunch = sklearn.datasets.load_digits()
  order = np.random.default_rng(0).permutation(len(bunch.images))
  rows = order[:1000] if split == 'train' else order[1000:]
  # Sixteen grey levels, spread over a byte.
  images = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)
  return ArraySource(
    images[..., None],
    {'label': bunch.target[rows]},
    make_ids(split, _SPLITS, len(rows)),
    [str(digit) for digit in range(10)],
  )


class Fake(Source):
  """Made-up images that can be learnt, for trying a configuration out.

  A class is a smooth random picture, an example that picture under noise.
  Images are drawn when they are asked for, so any number costs no memory.
  """

  def __init__(
    self,
    split: str,
    *,
    image_size: int = 32,
    channels: int = 3,
    num_classes: int = 10,
    num_groups: int = 1,
    train_examples: int = 512,
    test_examples: int = 128,
    encoded: bool = False,
  ):
    """Describes a data set, whose examples take the classes in turn.

    `num_groups` superclasses of consecutive classes are the 'coarse_label';
    `encoded` gives the bytes of JPEG files instead of pixels.

    Raises:
      ValueError: sizes that make no sense.
    """
    check_split('fake', split, _SPLITS)
    sizes = (image_size, num_groups, train_examples, test_examples)
    if min(sizes) < 1 or num_groups > num_classes or channels not in (1, 3):
      raise ValueError(
        f'image_size, num_groups, train_examples, test_examples are {sizes}, '
        f'channels={channels}: give 1 or more of each, not more groups than '
        f'num_classes={num_classes}, and 1 or 3 channels'
      )
    size = train_examples if split == 'train' else test_examples
    labels = np.arange(size, dtype=np.int32) % num_classes
    coarse = labels * num_groups // num_classes
    super().__init__(
      make_ids(split, _SPLITS, size),
      [f'class_{c:04d}' for c in range(num_classes)],
      channels,
      {'label': labels, 'coarse_label': coarse},
    )
    self._image_size = image_size
    self._encoded = encoded

  def _image(self, row):
    size = self._image_size
    prototype = np.random.default_rng((0, self.labels[row])).uniform(
      0, 255, (4, 4, self.channels)
    )
    smooth = cv2.resize(prototype, (size, size), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng((1, self.ids[row])).normal(
      0, 40, (size, size, self.channels)
    )
    pixels = np.rint(smooth.reshape(noise.shape) + noise).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    if not self._encoded:
      return pixels
    return cv2.imencode('.jpg', pixels)[1].tobytes()


def hold(source: Source) -> ArraySource:
  """Decodes a whole split once, so that training reads no files.

  Raises:
    ValueError: images of different shapes.
  """
  first = pixels.decode(source[0]['image'], source.channels)
  images = np.empty((len(source), *first.shape), np.uint8)

  def fill(start: int):
    rows = range(start, min(start + 256, len(source)))
    for row, example in zip(rows, source.__getitems__(rows), strict=True):
      image = pixels.decode(example['image'], source.channels)
      if image.shape != first.shape:
        raise ValueError(
          f'row 0 is {first.shape} and row {row} is {image.shape}: only '
          'images of one shape can be held in memory'
        )
      images[row] = image

  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(fill, range(0, len(source), 256)))
  return ArraySource(images, source.columns(), source.ids, source.label_names)


def make_ids(split: str, splits: Sequence[str], size: int) -> np.ndarray:
  """Numbers the examples of one split, apart from those of the others."""
  first = sorted(splits).index(split) * _ROWS_PER_SPLIT
  return np.arange(first, first + size, dtype=np.int32)


def check_split(name: str, split: str, splits: Sequence[str]):
  """Raises a ValueError unless `split` is one of `splits`."""
  if split not in splits:
    raise ValueError(
      f'{name!r} has no split {split!r}: choose from {sorted(splits)}'
    )
