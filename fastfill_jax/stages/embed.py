"""Stage 'embed': an encoder's outputs, computed once, kept on disk.

Alignments read arrays from here instead of running encoders. Every encoder's
lie in a result of its own; all embed the same augmented images, since an
augmentation depends on the seed, the view and the row alone.
"""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from fastfill_jax import choices, models, parallel, running
from fastfill_jax.data import dataset, loading, transforms
from fastfill_jax.stages import encode
from fastfill_jax.storage import arrays, artifact

_SHARD_ROWS = 65_536
_DTYPES = ('float16', 'float32')


def check(views: int, dtype: str):
  """Raises a ValueError if a setting of this stage is out of range."""
  choices.check('embed.dtype', dtype, _DTYPES)
  if views < 1:
    raise ValueError(f'embed.views={views}; at least 1.')


def columns(directory: pathlib.Path, how: running.How, *, data: dataset.Data):
  """Writes what is known of every example: label, id, and minority.

  Args:
    directory: Gets train/, gallery/ and perhaps query/, with an array each.
    how: How to go about it.
    data: The data set.
  """
  for name, source, rows in _splits(data, how):
    held = {'label': source.labels, 'id': source.ids}
    minority = dataset.groups(data, source)
    if minority is not None:
      held['minority'] = minority
    if parallel.is_main():
      for column, values in held.items():
        arrays.write(directory / name / column, values[rows])


def embed(
  directory: pathlib.Path,
  how: running.How,
  *,
  name: str,
  encoder: artifact.Artifact,
  data: dataset.Data,
  views: int,
  dtype: str,
  seed: int,
):
  """Writes an encoder's embeddings of all splits, and its classifier.

  Args:
    directory: Gets train/view<k>/NAME, gallery/NAME and perhaps query/NAME,
      arrays in shards, head.msgpack and head.json.
    how: How to go about it.
    name: The encoder's.
    encoder: The encoder.
    data: The data set.
    views: How many augmented views of every training image there are.
    dtype: Of what is written.
    seed: Of the augmented views.
  """
  recipe, variables = encode.load(encoder)
  if parallel.is_main():
    head = recipe['head'] | {'num_classes': recipe['num_classes']}
    artifact.write_json(directory / 'head.json', head)
  artifact.save_variables(
    directory / 'head.msgpack', variables['params']['head']
  )
  held = {
    'params': variables['params']['encoder'],
    'batch_stats': variables['batch_stats'],
  }
  mapped = parallel.pmap(
    embed_function(recipe, data), in_axes=(None, 0), out_axes=0, local=True
  )
  run = functools.partial(
    _write_split,
    how,
    functools.partial(mapped, held),
    dtype,
    seed,
  )
  for split, source, rows in _splits(data, how, in_memory=None):
    if split != 'train':
      transform = transforms.make_transform(**data['eval_transform'])
      run(source, rows, transform, 0, directory / split / name)
      continue
    transform = transforms.make_transform(**data['train_transform'])
    for view in range(views):
      run(source, rows, transform, view, directory / f'train/view{view}' / name)


def embed_function(recipe: dict[str, Any], data: dataset.Data):
  """The encoder to be pmapped.

  Returns:
    Of variables and uint8 images [batch, height, width, channel], embeddings
    [batch, embedding].
  """
  normalise = dataset.normaliser(data)
  network = models.make_encoder(**recipe['encoder'])

  def function(variables, images):
    return network.apply(variables, normalise(images), train=False)

  return function


def _splits(data, how, in_memory=False):
  """(name, source, rows) of every split that is embedded."""
  for name in ('train', 'gallery', 'query'):
    split = data[f'{name}_split']
    if not split:
      continue
    source = dataset.open_split(data, split, how, in_memory=in_memory)
    if name == 'train':
      rows, _ = dataset.split_rows(data, source)
    else:
      rows = dataset.searched_rows(data, source)
    if not len(rows):
      raise ValueError(
        f'data.held_out={data["held_out"]} leaves nothing of {split!r}.'
      )
    yield name, source, rows


def _write_split(
  how, mapped, dtype, seed, source, rows, transform, view, directory
):
  """Writes this process's shards of one split under one view."""
  shards = range(-(-len(rows) // _SHARD_ROWS))
  for shard in shards[parallel.process_index() :: parallel.process_count()]:
    if arrays.has_shard(directory, shard):
      continue
    how.preemption.raise_if_requested(f'{directory}, before shard {shard},')
    part = rows[shard * _SHARD_ROWS : (shard + 1) * _SHARD_ROWS]
    batches = loading.batches_in_order(
      source,
      part,
      transform,
      batch_size=parallel.round_up(min(how.embed_batch_size, len(part))),
      seed=seed,
      view=view,
      num_workers=how.num_workers,
    )
    arrays.write_shard(directory, shard, _run(mapped, batches, dtype))
  parallel.barrier(f'embedded {directory}')


def _run(mapped, batches, dtype):
  """The embeddings of all batches, [row, embedding]."""
  blocks, previous = [], None
  for batch in batches:
    # Fetched one batch late, so that the device has its next one already.
    if previous is not None:
      blocks.append(_fetch(*previous, dtype))
    previous = mapped(parallel.shard(batch['image'])), batch['where']
  blocks.append(_fetch(*previous, dtype))
  return np.concatenate(blocks)


def _fetch(out, where, dtype):
  return parallel.unshard(jax.device_get(out))[where].astype(dtype)
