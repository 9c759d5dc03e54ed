"""Which rows of a data set a model sees: classes, cuts, validation splits."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd


def select(
  labels: np.ndarray,
  *,
  num_classes: int,
  classes: float | Sequence[int],
  cut: Sequence[int] = (),
  kept: float = 1.0,
) -> np.ndarray:
  """Picks the rows an encoder is trained on.

  The old encoder sees the first half of the classes (`classes=0.5`), or, in
  the biased update, all classes but few examples of some (`cut=(7, 9),
  kept=0.1`). Each class draws on its own, so that cutting one more leaves the
  others' examples as they were.

  `classes` are a share in (0, 1], the first ones, or their numbers. Of the
  classes `cut` the share `kept` of the examples stays, at least one.

  Returns:
    int [row], ascending.

  Raises:
    ValueError: classes that don't exist, a share out of range, no rows left.
  """
  keep = np.isin(labels, _class_numbers(classes, num_classes))
  for label in cut:
    rows = np.flatnonzero(labels == label)
    order = np.random.default_rng((0, label)).permutation(rows)
    keep[order[max(1, round(kept * len(rows))) :]] = False
  if not keep.any():
    raise ValueError(f'no example has a label among classes={classes!r}')
  return np.flatnonzero(keep)


def _class_numbers(
  classes: float | Sequence[int], num_classes: int
) -> np.ndarray:
  if isinstance(classes, float):
    # 0.29 * 100 is 28.999..., so a little is added before rounding down.
    count = int(classes * num_classes + 1e-6)
    if not 0 < classes <= 1 or not count:
      raise ValueError(
        f'classes={classes}: give a share in (0, 1], of {num_classes} classes '
        'at least one'
      )
    return np.arange(count)
  wrong = [c for c in classes if c != int(c) or not 0 <= c < num_classes]
  if wrong:
    raise ValueError(
      f'no such classes: {wrong[:10]}; there are 0 to {num_classes - 1}'
    )
  return np.asarray(classes)


def split_validation(
  labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sets a stratified part aside for validation.

  Rows are ordered by class, at random inside one, and taken at equal
  distances: the total is exact and every class is within one of its share.

  Returns:
    Rows for training and rows for validation, int [row], ascending; together
    they are all rows, each once.

  Raises:
    ValueError: a fraction that leaves either part empty.
  """
  count = round(fraction * len(labels))
  if not 0 < count < len(labels):
    raise ValueError(
      f'fraction {fraction} of {len(labels)} examples sets {count} aside: '
      'both parts must have some'
    )
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  offsets = (np.arange(count) + rng.random()) * len(labels) / count
  aside = np.zeros(len(labels), bool)
  aside[by_class[offsets.astype(int)]] = True
  return np.flatnonzero(~aside), np.flatnonzero(aside)


def read_groups(
  path: str | os.PathLike[str], label_names: Sequence[str]
) -> np.ndarray:
  """Reads the group of every class, str [class].

  The CSV file has the columns 'identity', a class's name, and 'group'.

  Raises:
    ValueError: a missing column, or classes that the file does not name.
  """
  table = pd.read_csv(
    path,
    dtype=str,
    index_col=False,
    keep_default_na=False,
    skipinitialspace=True,
    encoding='utf-8-sig',
  )
  columns = [name.strip() for name in table.columns]
  for name in ('identity', 'group'):
    if name not in columns:
      raise ValueError(f'{path} has no column {name!r}, only {columns}')
  table = table.set_axis(columns, axis=1)
  held = (table[name].str.strip() for name in ('identity', 'group'))
  group_of = dict(zip(*held, strict=True))
  missing = [name for name in label_names if name not in group_of]
  if missing:
    raise ValueError(
      f'{path} names no group for {len(missing)} of {len(label_names)} '
      f'classes: {missing[:5]}, ...'
    )
  return np.array([group_of[name] for name in label_names])
