"""Stage 'embed': an encoder's outputs, computed once, kept on disk.

Alignments read arrays from here instead of running encoders. Every encoder's
lie in a result of its own; all embed the same augmented images, since an
augmentation depends on the seed, the view and the row alone.
"""

import pathlib

import jax
import numpy as np

from fastfill_jax import choices, models, parallel
from fastfill_jax.data import dataset, loading, transforms
from fastfill_jax.stages import encode
from fastfill_jax.storage import arrays, artifact

_DTYPES = ('float16', 'float32')


def check(views: int, dtype: str):
  """Raises a ValueError if a setting of this stage is out of range."""
  choices.check('embed.dtype', dtype, _DTYPES)
  if views < 1:
    raise ValueError(f'embed.views={views}; at least 1.')


def columns(directory: pathlib.Path, how: parallel.How, *, data: dataset.Data):
  """Writes what is known of every example: label, id, and minority.

  The directory gets train/, gallery/ and perhaps query/, with an array each.
  """
  for name, source, rows in _splits(data, how, in_memory=False):
    held = {'label': source.labels, 'id': source.ids}
    minority = dataset.groups(data, source)
    if minority is not None:
      held['minority'] = minority
    if parallel.is_main():
      for column, values in held.items():
        arrays.write(directory / name / column, values[rows])


def embed(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  name: str,
  encoder: artifact.Artifact,
  data: dataset.Data,
  views: int,
  dtype: str,
  seed: int,
):
  """Writes an encoder's embeddings of all splits, and its classifier.

  The directory gets train/view<k>/NAME for so many augmented views of the
  training images, gallery/NAME and perhaps query/NAME, arrays in shards, and
  head.msgpack and head.json.
  """
  recipe, held, head = encode.load(encoder)
  artifact.save_variables(directory / 'head.msgpack', head)
  if parallel.is_main():
    head = recipe['head'] | {'num_classes': recipe['num_classes']}
    artifact.write_json(directory / 'head.json', head)
  normalise = dataset.normaliser(data)
  network = models.make_encoder(**recipe['encoder'])
  mapped = parallel.pmap(
    lambda held, images: network.apply(held, normalise(images), train=False),
    in_axes=(None, 0),
    out_axes=0,
    local=True,
  )
  for split, source, rows in _splits(data, how, how.in_memory):
    settings = data['train_transform']
    if split != 'train':
      settings = data['gallery_transform'] or data['eval_transform']
    transform = transforms.make_transform(**settings)
    for view in range(views if split == 'train' else 1):
      part = f'train/view{view}' if split == 'train' else split
      path = directory / part / name
      for shard, chosen in arrays.missing_shards(path, len(rows)):
        how.preemption.raise_if_requested(f'{path}, before shard {shard},')
        size = min(how.embed_batch_size, chosen.stop - chosen.start)
        batches = loading.batches_in_order(
          source,
          rows[chosen],
          transform,
          batch_size=parallel.round_up(size),
          seed=seed,
          view=view,
          num_workers=how.num_workers,
        )
        embedded = _run(lambda x: mapped(held, x), batches, dtype)
        arrays.write_shard(path, shard, embedded)
      parallel.barrier(f'embedded {path}')


def _splits(data, how, in_memory):
  """(name, source, rows) of every split that is embedded."""
  for name in ('train', 'gallery', 'query'):
    split = data[f'{name}_split']
    if not split:
      continue
    source = dataset.open_split(data, split, how, in_memory=in_memory)
    rows = dataset.embedded_rows(data, source, name)
    if not len(rows):
      raise ValueError(
        f'data.held_out={data["held_out"]} leaves nothing of {split!r}.'
      )
    yield name, source, rows


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
