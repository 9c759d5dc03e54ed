"""Opens a data set by name."""

import inspect

from fastfill_jax.data import folders, records, sources

# Each takes what it needs of open_source's arguments; TFDS has the other names.
_OPENERS = {
  'digits': sources.digits,
  'fake': sources.Fake,
  'image_folder': folders.Folder,
}


def open_source(
  name: str,
  split: str,
  *,
  data_dir: sources.Path | None = None,
  in_memory: bool = False,
  cache_dir: sources.Path | None = None,
  **options,
) -> sources.Source:
  """Opens one split of a data set.

  Args:
    name: 'digits' (scikit-learn's), 'fake' (made up, see sources.Fake for its
      options), 'image_folder' (`data_dir/<split>/<class>/<image>`, VGGFace2's
      form), or a TFDS name such as 'cifar100' or 'cifar100:3.0.2', prepared
      as ArrayRecord under `data_dir`.
    split: 'train', 'test', ...; 'test' means the labelled one where TFDS calls
      it otherwise ('validation' of imagenet2012 and places365_small).
    data_dir: where the data lies; for TFDS names by default $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    in_memory: decode the whole split now; the images must share one shape.
    cache_dir: where to keep the labels of a split on disk, which otherwise
      cost one pass over its records in every run.
    **options: of 'fake', or `label_key` for TFDS names: the feature that is
      the label.

  Raises:
    FileNotFoundError: the data is not there; the message names the command
      that prepares it, and its size.
    ValueError: an unknown option, split, label or file format, or no example.
  """
  opener = _OPENERS.get(name, records.Records)
  given = {'name': name, 'split': split}
  given |= {'data_dir': data_dir, 'cache_dir': cache_dir}
  taken = set(inspect.signature(opener).parameters)
  accepted = sorted(taken - set(given))
  unknown = sorted(set(options) - set(accepted))
  if unknown:
    raise ValueError(f'{name!r} has no option {unknown}: it accepts {accepted}')
  source = opener(**{k: given[k] for k in taken & set(given)}, **options)
  if not len(source):
    raise ValueError(f'split {split!r} of {name!r} is empty')
  return sources.hold(source) if in_memory else source
