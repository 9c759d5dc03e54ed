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

import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import artifact, embeddings, parallel

# {split: (what it must have, what it may have)}
SPLITS = {
  'train': ({'old', 'new'}, {'side', 'label'}),
  'gallery': ({'old', 'new', 'label'}, {'side', 'id'}),
  'query': ({'old', 'new', 'label'}, {'side', 'id'}),
  'backfill': ({'old'}, {'side', 'id'}),
}
_NEEDED = {'train', 'gallery'}
_EMBEDDINGS = ('old', 'new', 'side')
_BLOCK_ROWS = 65_536


def make(config: ConfigDict, workdir: pathlib.Path) -> artifact.Artifact:
  """Takes the embeddings of `config.embed.source`, for all seeds.

  Raises:
    ValueError: If an array is missing, unknown, not finite, or does not fit.
  """
  source = pathlib.Path(config.embed.source).absolute()
  error, found = None, {}
  try:
    found = find(source)
  except (ValueError, OSError) as failure:
    error = failure
  parallel.raise_together(error)
  classifier = source / 'classifier.npy'
  _check_alignments(config, found, classifier)
  files = [path for paths in found.values() for path in paths]
  files += [classifier] if classifier.exists() else []
  return artifact.make(
    workdir,
    'embed/source',
    {'source': {str(path.relative_to(source)): _stamp(path) for path in files}},
    functools.partial(_link, found, classifier),
    allowed='embed' in config.stages,
  )


def find(source: pathlib.Path) -> dict[tuple[str, str], list[pathlib.Path]]:
  """The files of every array, {(split, name): shards}.

  Raises:
    ValueError: If an array is missing or unknown.
  """
  found = {}
  for split, (needed, optional) in SPLITS.items():
    if not (source / split).is_dir():
      if split in _NEEDED:
        raise ValueError(
          f'There is no folder {source / split}: it must hold '
          f'{", ".join(sorted(needed))} as NAME.npy or as folders of shards.'
        )
      continue
    held = {
      path.name.removesuffix('.npy') for path in (source / split).iterdir()
    }
    if needed - held or held - needed - optional:
      raise ValueError(
        f'{source / split} holds {sorted(held)}; it must hold '
        f'{sorted(needed)} and may hold {sorted(optional)}.'
      )
    for name in held:
      path = source / split / f'{name}.npy'
      shards = (
        [path] if path.exists() else sorted(path.with_suffix('').glob('*.npy'))
      )
      found[split, name] = shards
  return found


def _check_alignments(config, found, classifier):
  for name, definition in config.alignments.items():
    if definition.kind == 'network':
      if definition.disc and not classifier.exists():
        raise ValueError(
          f'alignments[{name!r}] has the weight disc={definition.disc}, which '
          f'needs {classifier}.'
        )
      if definition.side and not {
        (split, 'side') for split, _ in found
      }.issubset(found):
        raise ValueError(
          f'alignments[{name!r}] needs the array side in every split.'
        )


def _stamp(path):
  held = path.stat()
  return [held.st_size, held.st_mtime_ns]


def _link(found, classifier, directory):
  error = None
  if parallel.is_main():
    try:
      for (split, name), paths in found.items():
        for shard, path in enumerate(paths):
          embeddings.link_shard(directory / _folder(split) / name, shard, path)
      _complete(directory)
      if classifier.exists():
        kernel = np.load(classifier)
        artifact.save_variables(
          directory / 'head.msgpack', {'kernel': kernel.astype(np.float32)}
        )
      _check(directory, kernel.shape if classifier.exists() else None)
    except (ValueError, OSError) as failure:
      error = failure
  parallel.raise_together(error)


def _folder(split):
  return 'train/view0' if split == 'train' else split


def _complete(directory):
  """Numbers the items of splits that bring no ids."""
  for split in ('gallery', 'query', 'backfill'):
    if (directory / split).exists() and not (directory / split / 'id').exists():
      size = len(embeddings.ShardedArray(directory / split / 'old'))
      embeddings.write(directory / split / 'id', np.arange(size))


def _check(directory, kernel):
  """Raises a ValueError if arrays do not fit each other or are not finite."""
  widths = {}
  for split in SPLITS:
    arrays = {
      path.name: embeddings.ShardedArray(path)
      for path in sorted((directory / _folder(split)).glob('*'))
    }
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
      raise ValueError(f'{split} holds arrays of different lengths: {sizes}.')
    for name, array in arrays.items():
      if name in _EMBEDDINGS:
        if array.ndim != 2 or array.dtype.kind != 'f':
          raise ValueError(
            f'{split}/{name} must be floats [row, embedding], not '
            f'{array.dtype} {array.shape}.'
          )
        if widths.setdefault(name, array.shape[1]) != array.shape[1]:
          raise ValueError(
            f'{split}/{name} has {array.shape[1]} columns, another split '
            f'{widths[name]}.'
          )
        # What is only to be planned is checked when it is aligned.
        if split != 'backfill':
          _check_finite(f'{split}/{name}', array)
      elif array.ndim != 1 or (
        name == 'label' and array.dtype.kind not in 'iu'
      ):
        raise ValueError(
          f'{split}/{name} must be [row]'
          + (' and integers' if name == 'label' else '')
          + f', not {array.dtype} {array.shape}.'
        )
  if kernel is None:
    return
  if len(kernel) != 2 or kernel[0] != widths['new']:
    raise ValueError(
      f'classifier.npy must be [new embedding={widths["new"]}, class], not '
      f'{kernel}.'
    )
  path = directory / _folder('train') / 'label'
  if not path.exists():
    raise ValueError('classifier.npy is there and train/label is not.')
  labels = embeddings.ShardedArray(path)[:]
  if labels.min() < 0 or labels.max() >= kernel[1]:
    raise ValueError(
      f'train/label holds {labels.min()} to {labels.max()}; classifier.npy '
      f'has {kernel[1]} classes.'
    )


def _check_finite(name, array):
  for start in range(0, len(array), _BLOCK_ROWS):
    rows = array[start : start + _BLOCK_ROWS]
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
      raise ValueError(
        f'{name} is not finite in row {start + int(np.argmin(finite))}.'
      )
