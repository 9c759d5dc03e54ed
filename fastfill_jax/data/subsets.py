"""Which rows of a data set a model sees: classes, cuts, validation splits."""

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np


def select(
  labels: np.ndarray,
  *,
  num_classes: int | None = None,
  classes: float | Sequence[int] | None = None,
  fraction_of_class: Mapping[int, float] | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Picks the rows an encoder is trained on.

  The old encoder sees the first half of the classes (`classes=0.5`), or, in
  the biased update, all classes but few examples of some
  (`fraction_of_class={7: 0.1}`).

  Args:
    labels: int [example].
    num_classes: classes in the data set; by default the highest label plus 1.
    classes: a share in (0, 1] for the first classes, or the class numbers; all
      classes by default.
    fraction_of_class: the share in (0, 1] of a class's examples to keep, at
      least one; classes not named keep theirs.
    seed: which examples of a cut class stay. Each class draws on its own, so
      that cutting one more leaves the others' examples as they were.

  Returns:
    int [row], ascending.

  Raises:
    ValueError: classes that don't exist, shares out of range, no rows left.
  """
  labels = np.asarray(labels)
  if not labels.size:
    raise ValueError('no labels: the split is empty')
  if num_classes is None:
    num_classes = int(labels.max()) + 1
  keep = np.isin(labels, _class_numbers(classes, num_classes))
  for label, fraction in (fraction_of_class or {}).items():
    _check_classes([label], num_classes)
    _check_share(fraction, f'fraction of class {label}')
    rows = np.flatnonzero(labels == label)
    rng = np.random.default_rng((seed, label))
    kept = max(1, round(fraction * len(rows)))
    keep[rng.permutation(rows)[kept:]] = False
  if not keep.any():
    raise ValueError(f'no example has a label among classes={classes!r}')
  return np.flatnonzero(keep)


def _class_numbers(
  classes: float | Sequence[int] | None, num_classes: int
) -> np.ndarray:
  if classes is None:
    return np.arange(num_classes)
  if isinstance(classes, float):
    _check_share(classes, 'classes')
    # 0.29 * 100 is 28.999..., so a little is added before rounding down.
    count = int(classes * num_classes + 1e-6)
    if not count:
      raise ValueError(f'classes={classes}: no whole class of {num_classes}')
    return np.arange(count)
  if isinstance(classes, int):
    raise ValueError(
      f'classes={classes}: give a share such as 0.5 or a tuple such as '
      f'({classes},)'
    )
  if not len(classes):
    raise ValueError('classes=(): give a share such as 0.5 or class numbers')
  _check_classes(classes, num_classes)
  return np.asarray(classes)


def _check_classes(classes: Sequence[int], num_classes: int):
  wrong = [c for c in classes if c != int(c) or not 0 <= c < num_classes]
  if wrong:
    raise ValueError(
      f'no such classes: {wrong[:10]}; there are 0 to {num_classes - 1}'
    )


def _check_share(share: float, name: str):
  if not 0 < share <= 1:
    raise ValueError(f'{name} is {share}: give a share in (0, 1]')


def split_validation(
  labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sets a stratified part aside for validation.

  Rows are ordered by class, at random inside one, and taken at equal
  distances: the total is exact and every class is within one of its share.

  Args:
    labels: int [example].
    fraction: share set aside, in (0, 1).
    seed: which examples.

  Returns:
    Rows for training and rows for validation, int [row], ascending; together
    they are all rows, each once.

  Raises:
    ValueError: a fraction that leaves either part empty.
  """
  labels = np.asarray(labels)
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


def group_of_class(
  labels: np.ndarray, groups: np.ndarray, num_classes: int
) -> np.ndarray:
  """Reads each class's group off the examples.

  Args:
    labels: int [example], such as CIFAR-100's classes.
    groups: int [example], such as its superclasses.
    num_classes: length of the result.

  Returns:
    int [class]; -1 for a class without examples.

  Raises:
    ValueError: a class with examples in two groups.
  """
  group = np.full(num_classes, -1)
  group[labels] = groups
  mixed = np.unique(np.asarray(labels)[group[labels] != groups])
  if mixed.size:
    raise ValueError(f'classes {mixed[:10].tolist()} lie in several groups')
  return group


def read_groups(
  path: str | os.PathLike[str],
  label_names: Sequence[str],
  *,
  identity: str = 'identity',
  group: str = 'group',
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Reads the group of every identity from a CSV file.

  VGGFace2's own identity_meta.csv is read with identity='Class_ID' and
  group='Gender'.

  Args:
    path: a CSV file whose first line names its columns.
    label_names: the classes, in the order of their numbers; identities beyond
      them are ignored.
    identity: the column that holds the class name.
    group: the column that holds the group's name.

  Returns:
    Group number of every class, int [class], and the groups' names, sorted.

  Raises:
    ValueError: a missing column, or classes that the file does not name.
  """
  with open(path, newline='', encoding='utf-8-sig') as file:
    reader = csv.DictReader(file, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    for name in (identity, group):
      if name not in columns:
        raise ValueError(f'{path} has no column {name!r}, only {columns}')
    reader.fieldnames = columns
    group_of = {r[identity].strip(): r[group].strip() for r in reader}
  missing = [name for name in label_names if name not in group_of]
  if missing:
    raise ValueError(
      f'{path} names no group for {len(missing)} of {len(label_names)} '
      f'classes: {missing[:5]}, ...'
    )
  names = tuple(sorted({group_of[name] for name in label_names}))
  numbers = np.array([names.index(group_of[name]) for name in label_names])
  return numbers, names
