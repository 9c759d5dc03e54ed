"""Folders of images, one per class, in VGGFace2's form.

`data_dir/<split>/<class>/<image>`, as in `test/n000001/0001_01.jpg`.
"""

import os
import pathlib

import numpy as np

from fastfill_jax.data import sources

_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


class Folder(sources.Source):
  """Images in folders named after their class.

  Classes are numbered in the order of the training folders' names, then those
  of the other splits' new ones: a class has one number in every split, and the
  training split's are the first.
  """

  def __init__(self, split: str, data_dir: sources.Path | None):
    """Lists the files of one split, a folder of `data_dir`.

    Raises:
      FileNotFoundError: no folder of that form.
      ValueError: no such split, or no images in it.
    """
    root = pathlib.Path(data_dir or '')
    known = _splits(root) if data_dir else []
    if not known:
      raise FileNotFoundError(
        f'no images under data_dir={str(data_dir)!r}: an image folder looks '
        'like <data_dir>/train/<class>/<image>.jpg'
      )
    sources.check_split('image_folder', split, known)
    self._root = root / split
    names = dict.fromkeys(x for one in known for x in _folders(root / one))
    number_of = {name: i for i, name in enumerate(names)}
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
    super().__init__(
      sources.make_ids(split, known, len(files)),
      number_of,
      columns={'label': np.array(labels, np.int32)},
    )

  def _path(self, row):
    return self._root / os.fsdecode(self._files[row])

  def _image(self, row):
    return self._path(row).read_bytes()

  def _content(self) -> bytes:
    # Every name, and the sizes of some files: a file may be of another image.
    some = np.linspace(0, len(self) - 1, min(len(self), 1000)).astype(int)
    sizes = [self._path(row).stat().st_size for row in some]
    return self._files.tobytes() + repr(sizes).encode()


def _splits(root: pathlib.Path) -> list[str]:
  """Names the splits under a folder, the training split first."""
  if not root.is_dir():
    return []
  names = [name for name in _folders(root) if _folders(root / name)]
  return sorted(names, key=lambda name: name != 'train')


def _folders(root: pathlib.Path) -> list[str]:
  with os.scandir(root) as entries:
    return sorted(e.name for e in entries if e.is_dir() and e.name[0] != '.')


def _images(folder: pathlib.Path) -> list[str]:
  with os.scandir(folder) as entries:
    return [e.name for e in entries if e.name.lower().endswith(_SUFFIXES)]
