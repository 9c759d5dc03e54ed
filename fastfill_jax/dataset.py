"""The config's data set, as the stages use it."""

import functools
import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import data, parallel, training


def settings(config: ConfigDict) -> dict:
  """All about the data that a trained model depends on."""
  held = config.data.to_dict()
  for key in ('gallery_split', 'query_split', 'in_memory'):
    del held[key]
  return held


def open_split(
  config: ConfigDict, split: str, in_memory: bool | None = None
) -> data.Source:
  """Opens a split; every process or none goes on.

  Args:
    config: The config.
    split: Its name.
    in_memory: Whether to decode it now; None: as the config says.

  Raises:
    ValueError: If it is missing or empty, here or in another process, or
      another process has other examples.
  """
  source, error = None, None
  try:
    source = data.open_source(
      config.data.name,
      split,
      data_dir=config.run.data_dir,
      in_memory=config.data.in_memory if in_memory is None else in_memory,
      cache_dir=config.run.label_dir or None,
      **config.data.options,
    )
  except (ValueError, OSError) as failure:
    error = failure
  parallel.raise_together(error)
  labels = hashlib.sha256(np.ascontiguousarray(source.labels)).digest()
  parallel.check_same(f'{split!r} split', labels)
  return source


def split_rows(
  config: ConfigDict, source: data.Source
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of the training split to train on, and to validate on."""
  fraction = config.data.validation_fraction
  if not fraction:
    return np.arange(len(source)), np.arange(0)
  return data.split_validation(source.labels, fraction, seed=0)


def groups(config: ConfigDict, source: data.Source) -> np.ndarray | None:
  """True for examples of the minority, bool [example]; None without groups."""
  minority = set(config.data.minority)
  if config.data.group_file:
    of_class, names = data.read_groups(
      config.data.group_file, source.label_names
    )
    group = np.array(names)[of_class][source.labels]
  elif config.data.group_column:
    group = source.column(config.data.group_column)
  else:
    return None
  known = set(np.unique(group).tolist())
  if not minority or minority - known:
    raise ValueError(
      f'data.minority={config.data.minority}: name one or more of the groups '
      f'{sorted(known)}.'
    )
  return np.isin(group, sorted(minority))


def select_rows(
  config: ConfigDict, model: ConfigDict, source: data.Source, rows: np.ndarray
) -> np.ndarray:
  """The rows that one encoder is trained on: its classes, its minority cut."""
  classes = model.classes or model.class_fraction
  labels = source.labels[rows]
  cut = None
  if model.minority_fraction != 1:
    minority = groups(config, source)
    if minority is None:
      raise ValueError(
        f'minority_fraction={model.minority_fraction} needs data.group_column '
        'or data.group_file.'
      )
    minority_classes = np.unique(source.labels[minority]).tolist()
    cut = dict.fromkeys(minority_classes, model.minority_fraction)
  picked = data.select(
    labels,
    num_classes=source.num_classes,
    classes=classes,
    fraction_of_class=cut,
  )
  return rows[picked]


def image(source: data.Source, row: int) -> np.ndarray:
  """One decoded image, uint8 [height, width, channel]."""
  return data.decode(source[row]['image'], source.channels)


def normaliser(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """uint8 images to float32 ones of the data set's mean and deviation."""
  return functools.partial(
    data.normalise, mean=config.data.mean, std=config.data.std
  )


def train_batches(
  config: ConfigDict,
  source: data.Source,
  rows: np.ndarray,
  transform: Callable,
  batch_size: int,
  seed: int,
  start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
  """This process's shuffled batches from a step on, without end."""
  return data.loader(
    source,
    rows,
    transform,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    process_index=parallel.process_index(),
    process_count=parallel.process_count(),
    num_workers=config.run.num_workers,
  )


def eval_batches(
  config: ConfigDict, source: data.Source, rows: np.ndarray, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
  """This process's share of one pass in order; masked by 'where'."""
  return data.batches_in_order(
    source,
    rows,
    data.make_transform(**config.data.eval_transform),
    batch_size=batch_size,
    seed=0,
    process_index=parallel.process_index(),
    process_count=parallel.process_count(),
    num_workers=config.run.num_workers,
  )


def loop_settings(config: ConfigDict) -> training.Settings:
  """How the training loops log and save."""
  return training.Settings(
    log_every=config.run.log_every,
    checkpoint_every=config.run.checkpoint_every,
    profile=config.run.profile,
  )
