"""Folders of images, one per class, in VGGFace2's form.

`data_dir/<split>/<class>/<image>`, as in `test/n000001/0001_01.jpg`.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from fastfill_jax.data import sources

_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


class Folder(sources.Source):
  """Images in folders named after their class.

  Classes are numbered in the order of the training folders' names, then those
  of the other splits' new ones: a class has one number in every split, and the
  training split's are the first.
  """

  def __init__(self, split: str, data_dir: str | os.PathLike[str] | None):
    """Lists the files of one split.

    Args:
      split: a folder of `data_dir`.
      data_dir: the folder of the splits.

    Raises:
      FileNotFoundError: no folder of that form.
      ValueError: no such split, or no images in it.
    """
    known = splits(data_dir)
    if not known:
      raise FileNotFoundError(
        f'no images under data_dir={str(data_dir)!r}: an image folder looks '
        'like <data_dir>/train/<class>/<image>.jpg'
      )
    sources.check_split('image_folder', split, known)
    self._root = pathlib.Path(data_dir) / split
    number_of = {name: i for i, name in enumerate(class_names(data_dir))}
    files, labels = [], []
    for name in _folders(self._root):
      found = sorted(_images(self._root / name))
      files += [f'{name}/{file}' for file in found]
      labels += [number_of[name]] * len(found)
    if not files:
      raise ValueError(
        f'{self._root} holds no image: looked for {", ".join(_SUFFIXES)}'
      )
    # Bytes in one array: millions of str objects would fill the memory.
    self._files = np.array([os.fsencode(file) for file in files])
    self._held = {'label': np.array(labels, np.int32)}
    super().__init__(sources.make_ids(split, known, len(files)), number_of)

  def __getitems__(self, rows: Sequence[int]) -> list[dict]:
    """Reads many files' bytes."""
    return [
      {
        'image': (self._root / os.fsdecode(self._files[row])).read_bytes(),
        'label': self.labels[row],
      }
      for row in rows
    ]

  def columns(self) -> dict[str, np.ndarray]:
    """All whole numbers the examples have, by name; int32 [example]."""
    return self._held

  def _content(self) -> bytes:
    # Every name, and the sizes of some files: a file may be of another image.
    some = np.linspace(0, len(self) - 1, min(len(self), 1000)).astype(int)
    paths = [self._root / os.fsdecode(self._files[row]) for row in some]
    sizes = [path.stat().st_size for path in paths]
    return self._files.tobytes() + repr(sizes).encode()


def splits(data_dir: str | os.PathLike[str] | None) -> list[str]:
  """Names the splits under a folder; none if it is not there."""
  if data_dir is None or not pathlib.Path(data_dir).is_dir():
    return []
  root = pathlib.Path(data_dir)
  return [name for name in _folders(root) if _folders(root / name)]


def class_names(data_dir: str | os.PathLike[str]) -> list[str]:
  """Names the classes of all splits, the training split's first."""
  root = pathlib.Path(data_dir)
  names = {}
  for split in sorted(splits(root), key=lambda split: split != 'train'):
    names.update(dict.fromkeys(_folders(root / split)))
  return list(names)


def images(data_dir: str | os.PathLike[str], split: str):
  """Yields every class name and image path of a split, in order."""
  root = pathlib.Path(data_dir) / split
  for name in _folders(root):
    for file in sorted(_images(root / name)):
      yield name, root / name / file


def _folders(root: pathlib.Path) -> list[str]:
  with os.scandir(root) as entries:
    return sorted(e.name for e in entries if e.is_dir() and e.name[0] != '.')


def _images(folder: pathlib.Path) -> list[str]:
  with os.scandir(folder) as entries:
    return [e.name for e in entries if e.name.lower().endswith(_SUFFIXES)]
