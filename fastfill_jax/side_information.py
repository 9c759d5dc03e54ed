"""Stage 'side': an encoder trained on images alone, by SimCLR.

Its embedding is stored next to the old one and helps the alignment: the
side-information of FCT (arXiv 2112.02805) and FastFill (arXiv 2303.04766,
section 5).
"""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import (
  artifact,
  data,
  dataset,
  encoder,
  losses,
  models,
  parallel,
  training,
)
from fastfill_jax.models import heads


def make_step(network, projection, optimizer, normalise, temperature):
  """One step on the contrastive loss, with negatives from every device.

  Returns:
    step(state, batch) -> (state, metrics), to be pmapped; batch holds 'image'
    uint8 [batch, view, height, width, channel], two views.
  """

  def loss_fn(params, batch_stats, batch):
    images = normalise(batch['image'])
    # Both views in one pass, so that BatchNorm sees them together.
    embedding, updates = network.apply(
      {'params': params['encoder'], 'batch_stats': batch_stats},
      jnp.concatenate([images[:, 0], images[:, 1]]),
      train=True,
      mutable=['batch_stats'],
    )
    projected = projection.apply({'params': params['head']}, embedding)
    view_a, view_b = jnp.split(projected, 2)
    loss = losses.nt_xent(view_a, view_b, temperature, parallel.AXIS)
    metrics = {'loss': jnp.mean(loss)}
    return metrics['loss'], (metrics, updates.get('batch_stats', {}))

  return functools.partial(training.update, optimizer, loss_fn)


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  which: str,
  seed: int,
  preemption: parallel.Preemption,
) -> artifact.Artifact:
  """Trains the side-information encoder, unless it is there."""
  return artifact.make(
    workdir,
    f'{which}/seed{seed}',
    encoder.settings(config, which, seed),
    functools.partial(_train, config, seed, preemption),
    allowed=which in config.stages,
  )


def _train(config, seed, preemption, directory):
  model = config.side
  source = dataset.open_split(config, config.data.train_split)
  rows, _ = dataset.split_rows(config, source)
  network = models.make_encoder(axis_name=parallel.AXIS, **model.encoder)
  projection = heads.Projection(model.projection_dim)
  optimizer, num_steps = encoder.make_optimizer(model, len(rows))
  normalise = dataset.normaliser(config)
  transform = data.make_transform(**model.transform)
  views = transform(np.random.default_rng(0), dataset.image(source, 0))
  state = encoder.initialise(
    network, projection, optimizer, normalise(views), seed
  )
  step = make_step(network, projection, optimizer, normalise, model.temperature)
  batches = functools.partial(
    dataset.train_batches,
    *(config, source, rows, transform, model.batch_size, seed),
  )
  encoder.fit(
    config,
    'side',
    state,
    step,
    batches,
    num_steps=num_steps,
    directory=directory,
    preemption=preemption,
  )
