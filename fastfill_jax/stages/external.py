"""Stage 'embed' for embeddings that were computed elsewhere: no encoder runs.

`config.embed.source` is a folder with

  train/     old, new[, side, label]      items that both models embedded, to
                                          fit alignments to
  gallery/   old, new, label[, side, id]  other such items, to measure on
  query/     the same                     left out: the gallery, each item left
                                          out of its own ranking
  backfill/  old[, side, id]              left out: nothing to plan; the stored
                                          gallery, without new embeddings
  classifier.npy                          left out: no loss, no policy with it;
                                          W_new [new embedding, class], of
                                          the classes of train/label

where an array NAME is NAME.npy or a folder NAME of shards 00000.npy, 00001.npy,
..., rows first. They are linked to, not copied.
"""

import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from absl import logging

from fastfill_jax import parallel
from fastfill_jax.storage import arrays, artifact, splits

# {split: (what it must have, what it may have)}
SPLITS = {
  'train': ({'old', 'new'}, {'side', 'label'}),
  'gallery': ({'old', 'new', 'label'}, {'side', 'id'}),
  'query': ({'old', 'new', 'label'}, {'side', 'id'}),
  'backfill': ({'old'}, {'side', 'id'}),
}
_NEEDED = {'train', 'gallery'}
# {array: (axes, kinds of numbers, in words)}
_FORMS = {
  **dict.fromkeys(('old', 'new', 'side'), (2, 'f', 'floats [row, embedding]')),
  'label': (1, 'iu', 'integers [row]'),
  'id': (1, 'iufSU', '[row]'),
}


def make(
  workdir: artifact.Workdir,
  how: parallel.How,
  source: str,
  held_out: Sequence[int] = (),
) -> dict[str, artifact.Artifact]:
  """Takes the embeddings of the folder `source`, for all seeds.

  The classes `held_out` are left out of `train` and alone make up the gallery
  and the queries; those splits are then copied, not linked to.

  Returns:
    By array, where it lies: all in one result.

  Raises:
    ValueError: If an array is missing, unknown, not finite, or does not fit.
  """
  root = pathlib.Path(source).absolute()
  with parallel.together():
    found = _find(root)
  classifier = root / 'classifier.npy'
  paths = [path for shards in found.values() for path in shards]
  paths += [classifier] if classifier.exists() else []
  _drop_broken(workdir.path)

  def link(directory, how, *, files, held_out):
    del how, files
    with parallel.together():
      if parallel.is_main():
        _link(found, classifier, directory, held_out)

  files = {}
  for path in paths:
    held = path.stat()
    files[str(path.relative_to(root))] = [held.st_size, held.st_mtime_ns]
  made = workdir.make(
    'embed', 'source', link, how, files=files, held_out=list(held_out)
  )
  return dict.fromkeys(('old', 'new', 'side'), made)


def _drop_broken(workdir: pathlib.Path):
  """Forgets links to a folder that was moved: they are made again."""
  if parallel.is_main():
    for path in workdir.glob('embed/source-*'):
      if any(x.is_symlink() and not x.exists() for x in path.rglob('*.npy')):
        logging.info('The embeddings behind %s were moved: linked again.', path)
        shutil.rmtree(path)
  parallel.barrier('links')


def _find(source: pathlib.Path) -> dict[tuple[str, str], list[pathlib.Path]]:
  """The files of every array, {(split, name): shards}; checks the names."""
  found = {}
  for split, (needed, optional) in SPLITS.items():
    if not (source / split).is_dir():
      if split in _NEEDED:
        raise ValueError(
          f'There is no folder {source / split}: it must hold '
          f'{", ".join(sorted(needed))} as NAME.npy or as folders of shards.'
        )
      continue
    held = {x.name.removesuffix('.npy') for x in (source / split).iterdir()}
    if needed - held or held - needed - optional:
      raise ValueError(
        f'{source / split} holds {sorted(held)}; it must hold '
        f'{sorted(needed)} and may hold {sorted(optional)}.'
      )
    for name in held:
      path = source / split / f'{name}.npy'
      shards = sorted(path.with_suffix('').glob('*.npy'))
      found[split, name] = [path] if path.exists() else shards
  return found


def _link(found, classifier, directory, held_out):
  for (split, name), paths in found.items():
    for shard, path in enumerate(paths):
      arrays.link_shard(directory / _folder(split) / name, shard, path)
  # Splits that bring no ids are numbered.
  for split in ('gallery', 'query', 'backfill'):
    if (directory / split).exists() and not (directory / split / 'id').exists():
      size = len(arrays.ShardedArray(directory / split / 'old'))
      arrays.write(directory / split / 'id', np.arange(size))
  if held_out:
    _hold_out(directory, held_out)
  width = _check_splits(directory)
  if classifier.exists():
    kernel = np.load(classifier)
    _check_classifier(kernel, width, directory)
    artifact.save_variables(
      directory / 'head.msgpack', {'kernel': kernel.astype(np.float32)}
    )
    head = {'name': 'linear', 'num_classes': kernel.shape[1]}
    artifact.write_json(directory / 'head.json', head)


def _folder(split):
  return 'train/view0' if split == 'train' else split


def _hold_out(directory, held_out):
  """Takes classes out of train and everything else out of the rest."""
  for split in ('train', 'gallery', 'query'):
    root = directory / _folder(split)
    if not root.exists():
      continue
    if not (root / 'label').exists():
      raise ValueError(f'data.held_out={held_out} needs {split}/label.')
    kept = np.isin(arrays.ShardedArray(root / 'label')[:], held_out)
    rows = np.flatnonzero(~kept if split == 'train' else kept)
    if not len(rows):
      raise ValueError(f'data.held_out={held_out} leaves nothing of {split}.')
    for path in [x for x in root.iterdir() if x.is_dir()]:
      part = arrays.ShardedArray(path)[rows]
      shutil.rmtree(path)
      arrays.write(path, part)


def _check_splits(directory) -> int:
  """The new width; refuses what does not fit or is not finite."""
  widths = {}
  for split in SPLITS:
    held = {
      path.name: arrays.ShardedArray(path)
      for path in sorted((directory / _folder(split)).glob('*'))
    }
    sizes = {name: len(array) for name, array in held.items()}
    if len(set(sizes.values())) > 1:
      raise ValueError(f'{split} holds arrays of different lengths: {sizes}.')
    for name, array in held.items():
      axes, kinds, words = _FORMS[name]
      if array.ndim != axes or array.dtype.kind not in kinds:
        raise ValueError(
          f'{split}/{name} must be {words}, not {array.dtype} {array.shape}.'
        )
      if widths.setdefault(name, array.shape[1:]) != array.shape[1:]:
        raise ValueError(
          f'{split}/{name} has {array.shape[1]} columns, another split '
          f'{widths[name][0]}.'
        )
      # What is only to be planned is checked when it is aligned.
      if axes == 2 and split != 'backfill':
        _check_finite(f'{split}/{name}', array)
  return widths['new'][0]


def _check_classifier(kernel, width, directory):
  if kernel.ndim != 2 or len(kernel) != width:
    raise ValueError(
      f'classifier.npy must be [new embedding={width}, class], not '
      f'{kernel.shape}.'
    )
  path = directory / _folder('train') / 'label'
  if not path.exists():
    raise ValueError('classifier.npy is there and train/label is not.')
  labels = arrays.ShardedArray(path)[:]
  if labels.min() < 0 or labels.max() >= kernel.shape[1]:
    raise ValueError(
      f'train/label holds {labels.min()} to {labels.max()}; classifier.npy '
      f'has {kernel.shape[1]} classes.'
    )


def _check_finite(name, array):
  for block in splits.row_blocks(0, len(array)):
    rows = array[block]
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
      raise ValueError(
        f'{name} is not finite in row {block.start + int(np.argmin(finite))}.'
      )
