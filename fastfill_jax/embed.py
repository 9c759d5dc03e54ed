"""Stage 'embed': both encoders' outputs, computed once, kept on disk.

Alignment and every ablation of it read arrays from here instead of running
encoders. Old, new and side-information embed the same augmented image.

An artifact holds `train/view<k>/`, `gallery/` and perhaps `query/`, each with
the sharded arrays old, new (and side), label and id, and minority where there
are subgroups; and `head.msgpack`, the new classifier.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import artifact, data, dataset, embeddings, models, parallel

_SHARD_ROWS = 65_536
_DTYPES = ('float16', 'float32')


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  encoders: dict[str, artifact.Artifact],
  seed: int,
  preemption: parallel.Preemption,
) -> artifact.Artifact:
  """Embeds all splits by the encoders {'old', 'new'[, 'side']: artifact}."""
  return artifact.make(
    workdir,
    f'embed/seed{seed}',
    settings(config, encoders, seed),
    functools.partial(_embed, config, encoders, seed, preemption),
    allowed='embed' in config.stages,
  )


def settings(
  config: ConfigDict, encoders: dict[str, artifact.Artifact], seed: int
) -> dict:
  """All that the embeddings depend on."""
  return {
    'embed': {
      'views': config.embed.views,
      'dtype': config.embed.dtype,
    },
    'data': config.data.to_dict(),
    'inputs': {name: encoder.digest for name, encoder in encoders.items()},
    'seed': seed,
  }


def load_kernel(embedded: artifact.Artifact) -> np.ndarray | None:
  """W_new, the weights of the new classifier [embedding, class], if known."""
  path = embedded.directory / 'head.msgpack'
  return artifact.load_variables(path)['kernel'] if path.exists() else None


def check(config: ConfigDict):
  """Raises a ValueError if a setting of this stage is out of range."""
  if config.embed.dtype not in _DTYPES:
    raise ValueError(
      f'embed.dtype={config.embed.dtype!r}; choose of {_DTYPES}.'
    )
  if config.embed.views < 1:
    raise ValueError(f'embed.views={config.embed.views}; at least 1.')


def _embed(config, encoders, seed, preemption, directory):
  variables = {
    name: artifact.load_variables(encoder.directory / 'variables.msgpack')
    for name, encoder in encoders.items()
  }
  if parallel.is_main():
    artifact.save_variables(
      directory / 'head.msgpack', variables['new']['params']['head']
    )
  for held in variables.values():
    held['params'] = held['params']['encoder']
  embed = parallel.pmap(
    embed_function(config, list(encoders)),
    in_axes=(None, 0),
    out_axes=0,
    local=True,
  )
  write = functools.partial(
    _write_split, config, lambda images: embed(variables, images), preemption
  )
  source = dataset.open_split(config, config.data.train_split)
  rows, _ = dataset.split_rows(config, source)
  transform = data.make_transform(**config.data.train_transform)
  for view in range(config.embed.views):
    write(source, rows, transform, seed, view, directory / f'train/view{view}')
  transform = data.make_transform(**config.data.eval_transform)
  for name in ('gallery', 'query'):
    split = config.data[f'{name}_split']
    if split:
      source = dataset.open_split(config, split)
      rows = np.arange(len(source))
      write(source, rows, transform, seed, 0, directory / name)


def embed_function(config: ConfigDict, names: Sequence[str]) -> Callable:
  """The function of several encoders, to be pmapped.

  Returns:
    Of {name: variables} and uint8 images [batch, height, width, channel],
    {name: embeddings [batch, embedding]}.
  """
  normalise = dataset.normaliser(config)
  networks = {
    name: models.make_encoder(**config[name].encoder) for name in names
  }

  def embed(variables, images):
    images = normalise(images)
    return {
      name: network.apply(variables[name], images, train=False)
      for name, network in networks.items()
    }

  return embed


def _write_split(
  config, embed, preemption, source, rows, transform, seed, view, directory
):
  """Writes this process's shards of one split under one view."""
  columns = {'label': source.labels, 'id': source.ids}
  minority = dataset.groups(config, source)
  if minority is not None:
    columns['minority'] = minority
  if parallel.is_main():
    for name, column in columns.items():
      embeddings.write(directory / name, column[rows])
  shards = range(-(-len(rows) // _SHARD_ROWS))
  for shard in shards[parallel.process_index() :: parallel.process_count()]:
    # 'new' is written last: its shard says that the others are there.
    if embeddings.has_shard(directory / 'new', shard):
      continue
    preemption.raise_if_requested(f'{directory.name}, before shard {shard},')
    part = rows[shard * _SHARD_ROWS : (shard + 1) * _SHARD_ROWS]
    out = _embed_rows(config, embed, source, part, transform, seed, view)
    for name in sorted(out, key=lambda name: name == 'new'):
      embeddings.write_shard(directory / name, shard, out[name])
  parallel.barrier(f'embedded {directory}')


def _embed_rows(config, embed, source, rows, transform, seed, view):
  """Embeddings of some rows, {name: [row, embedding]}."""
  batches = data.batches_in_order(
    source,
    rows,
    transform,
    batch_size=parallel.round_up(min(config.embed.batch_size, len(rows))),
    seed=seed,
    view=view,
    num_workers=config.run.num_workers,
  )
  blocks, previous = [], None
  for batch in batches:
    # Fetched one batch late, so that the device has its next one already.
    if previous is not None:
      blocks.append(_fetch(previous, config.embed.dtype))
    previous = embed(parallel.shard(batch['image'])), batch['where']
  blocks.append(_fetch(previous, config.embed.dtype))
  return {
    name: np.concatenate([block[name] for block in blocks])
    for name in blocks[0]
  }


def _fetch(result, dtype):
  out, where = result
  return {
    name: array[where].astype(dtype)
    for name, array in jax.tree.map(parallel.unshard, out).items()
  }
