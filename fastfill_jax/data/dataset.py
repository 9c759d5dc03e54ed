"""A run's data set as the stages use it, from its plain description.

The description is `config.data` as a dict, with a fingerprint of every split
beside it: what the examples are, wherever they lie.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fastfill_jax import parallel
from fastfill_jax.data import opening, pixels, sources, subsets

Data = dict[str, Any]


def describe(data: Data, how: parallel.How) -> Data:
  """The description with the fingerprints of its splits.

  Raises:
    ValueError: If a split is missing or empty, here or in another process, or
      another process has other examples.
  """
  names = {data['train_split'], data['gallery_split'], data['query_split']}
  names = sorted(names - {''})
  prints = {x: open_split(data, x, how).fingerprint() for x in names}
  if data['group_file']:
    content = pathlib.Path(data['group_file']).read_bytes()
    prints['group_file'] = hashlib.sha256(content).hexdigest()[:16]
  return data | {'fingerprints': prints}


def of_training(data: Data) -> Data:
  """What of the description a trained encoder depends on."""
  splits = ('gallery_split', 'query_split')
  dropped = {data[key] for key in splits} - {data['train_split']}
  prints = {k: v for k, v in data['fingerprints'].items() if k not in dropped}
  searched = (*splits, 'gallery_transform')
  kept = {k: v for k, v in data.items() if k not in searched}
  return kept | {'fingerprints': prints}


def open_split(
  data: Data, split: str, how: parallel.How, in_memory: bool = False
) -> sources.Source:
  """Opens a split, decoded now if `in_memory`; every process or none goes on.

  Raises:
    ValueError: As `describe`.
  """
  with parallel.together():
    source = opening.open_source(
      data['name'],
      split,
      data_dir=how.data_dir,
      in_memory=in_memory,
      cache_dir=how.label_dir,
      **data['options'],
    )
  labels = hashlib.sha256(np.ascontiguousarray(source.labels)).digest()
  parallel.check_same(f'{split!r} split', labels)
  return source


def split_rows(
  data: Data, source: sources.Source
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of the training split to train on, and to validate on.

  Held-out classes are in neither.
  """
  fraction = data['validation_fraction']
  rows, validation = np.arange(len(source)), np.arange(0)
  if fraction:
    rows, validation = subsets.split_validation(source.labels, fraction, seed=0)
  seen = ~np.isin(source.labels, data['held_out'])
  return rows[seen[rows]], validation[seen[validation]]


def embedded_rows(data: Data, source: sources.Source, split: str) -> np.ndarray:
  """Of 'train' the rows to train on, else all or those of held-out classes."""
  if split == 'train':
    return split_rows(data, source)[0]
  if not data['held_out']:
    return np.arange(len(source))
  return np.flatnonzero(np.isin(source.labels, data['held_out']))


def groups(data: Data, source: sources.Source) -> np.ndarray | None:
  """True for examples of the minority, bool [example]; None without groups."""
  if data['group_file']:
    of_class = subsets.read_groups(data['group_file'], source.label_names)
    group = of_class[source.labels]
  elif data['group_column']:
    group = source.column(data['group_column'])
  else:
    return None
  minority, known = set(data['minority']), set(np.unique(group).tolist())
  if not minority or minority - known:
    raise ValueError(
      f'data.minority={data["minority"]}: name one or more of the groups '
      f'{sorted(known)}.'
    )
  return np.isin(group, sorted(minority))


def select_rows(
  data: Data, recipe: dict[str, Any], source: sources.Source, rows: np.ndarray
) -> np.ndarray:
  """The rows that one encoder is trained on: its classes, its minority cut."""
  cut, kept = (), recipe['minority_fraction']
  if kept != 1:
    minority = groups(data, source)
    if minority is None:
      raise ValueError(
        f'minority_fraction={kept} needs data.group_column or data.group_file.'
      )
    cut = np.unique(source.labels[minority]).tolist()
  picked = subsets.select(
    source.labels[rows],
    num_classes=source.num_classes,
    classes=tuple(recipe['classes']) or recipe['class_fraction'],
    cut=cut,
    kept=kept,
  )
  return rows[picked]


def normaliser(data: Data) -> Callable[[jax.Array], jax.Array]:
  """uint8 images to float32 ones of the data set's mean and deviation."""
  return functools.partial(pixels.normalise, mean=data['mean'], std=data['std'])
