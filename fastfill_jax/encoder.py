"""Stages 'old' and 'new': an encoder and its classifier.

FastFill trains the new model freely: plain classification, no compatibility
loss (arXiv 2303.04766, section 3).
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fastfill_jax import (
  artifact,
  data,
  dataset,
  losses,
  models,
  optim,
  parallel,
  training,
)
from fastfill_jax.models import heads

HEADS = {'linear': heads.Linear, 'arcface': heads.ArcFace}


def make_head(num_classes: int, *, name: str, **options) -> nn.Module:
  """The classifier on an encoder; options are those of the module."""
  if name not in HEADS:
    raise ValueError(f'Unknown head {name!r}; choose of {sorted(HEADS)}.')
  return HEADS[name](num_classes=num_classes, **options)


def make_optimizer(
  config: ConfigDict, num_examples: int
) -> tuple[optax.GradientTransformation, int]:
  """The optimiser of one model's config, and its number of steps.

  Args:
    config: With batch_size, num_epochs, warmup_epochs and optimizer.
    num_examples: Of one epoch.

  Raises:
    ValueError: If a batch is larger than an epoch, or does not divide over
      the devices.
  """
  parallel.check_batch_size(config.batch_size)
  steps_per_epoch = num_examples // config.batch_size
  if not steps_per_epoch:
    raise ValueError(
      f'batch_size={config.batch_size} is larger than the {num_examples} '
      'training examples.'
    )
  num_steps = steps_per_epoch * config.num_epochs
  optimizer = optim.make_optimizer(
    num_steps=num_steps,
    warmup_steps=steps_per_epoch * config.warmup_epochs,
    **config.optimizer,
  )
  return optimizer, num_steps


def make_step(encoder, head, optimizer, normalise, label_smoothing):
  """One step of SGD on the smoothed cross-entropy.

  Returns:
    step(state, batch) -> (state, metrics), to be pmapped; batch holds 'image'
    uint8 [batch, height, width, channel] and 'label' int [batch].
  """

  def loss_fn(params, batch_stats, batch):
    embedding, updates = encoder.apply(
      {'params': params['encoder'], 'batch_stats': batch_stats},
      normalise(batch['image']),
      train=True,
      mutable=['batch_stats'],
    )
    logits = head.apply({'params': params['head']}, embedding, batch['label'])
    loss = losses.cross_entropy(logits, batch['label'], label_smoothing)
    accuracy = jnp.argmax(logits, axis=1) == batch['label']
    metrics = {'loss': jnp.mean(loss), 'train_accuracy': jnp.mean(accuracy)}
    return metrics['loss'], (metrics, updates.get('batch_stats', {}))

  return functools.partial(training.update, optimizer, loss_fn)


def initialise(encoder, head, optimizer, images, seed) -> training.State:
  """The state before the first step; images set the input's shape."""

  @jax.jit  # One program instead of one for every layer.
  def init(key):
    keys = jax.random.split(key)
    # train=False: outside of pmap BatchNorm has no axis to average over.
    embedding, variables = encoder.init_with_output(
      keys[0], images, train=False
    )
    params = {
      'encoder': variables['params'],
      'head': head.init(keys[1], embedding)['params'],
    }
    batch_stats = variables.get('batch_stats', {})
    return training.State(
      jnp.int32(0), params, batch_stats, optimizer.init(params)
    )

  return init(jax.random.key(seed))


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  which: str,
  seed: int,
  preemption: parallel.Preemption,
) -> artifact.Artifact:
  """Trains the 'old' or the 'new' encoder, unless it is there."""
  return artifact.make(
    workdir,
    f'{which}/seed{seed}',
    settings(config, which, seed),
    functools.partial(_train, config, which, seed, preemption),
    allowed=which in config.stages,
  )


def settings(config: ConfigDict, which: str, seed: int) -> dict:
  """All that the trained encoder depends on."""
  return {
    'model': config[which].to_dict(),
    'data': dataset.settings(config),
    'seed': seed,
  }


def check_data(config: ConfigDict):
  """Raises a ValueError for what any stage would find wrong in the data.

  Otherwise it would come after hours of training.
  """
  for split in sorted(
    {config.data.gallery_split, config.data.query_split} - {''}
  ):
    dataset.open_split(config, split, in_memory=False)
  source = dataset.open_split(config, config.data.train_split, in_memory=False)
  rows, _ = dataset.split_rows(config, source)
  for which in ('old', 'new'):
    picked = dataset.select_rows(config, config[which], source, rows)
    make_optimizer(config[which], len(picked))
  for recipe in (
    config.align,
    *((config.side,) if config.side.enabled else ()),
  ):
    make_optimizer(recipe, len(rows))


def _train(config, which, seed, preemption, directory):
  check_data(config)
  model = config[which]
  source = dataset.open_split(config, config.data.train_split)
  rows, validation = dataset.split_rows(config, source)
  rows = dataset.select_rows(config, model, source, rows)
  encoder = models.make_encoder(axis_name=parallel.AXIS, **model.encoder)
  head = make_head(source.num_classes, **model.head)
  optimizer, num_steps = make_optimizer(model, len(rows))
  normalise = dataset.normaliser(config)
  transform = data.make_transform(**config.data.train_transform)
  example = transform(np.random.default_rng(0), dataset.image(source, 0))
  state = initialise(encoder, head, optimizer, normalise(example[None]), seed)
  step = make_step(encoder, head, optimizer, normalise, model.label_smoothing)
  evaluate = None
  if len(validation):
    # Classes that were not trained on cannot be right.
    seen = np.unique(source.labels[rows])
    validation = validation[np.isin(source.labels[validation], seen)]
    evaluate = _make_evaluate(config, model, source, validation, encoder, head)
  batches = functools.partial(
    dataset.train_batches,
    *(config, source, rows, transform, model.batch_size, seed),
  )
  fit(
    config,
    which,
    state,
    step,
    batches,
    num_steps=num_steps,
    directory=directory,
    preemption=preemption,
    evaluate=evaluate,
    evaluate_every=config.run.evaluate_every,
  )


def fit(config: ConfigDict, name: str, state, step, batches, **options):
  """Trains an encoder by an unmapped step, and writes its variables.

  Args:
    config: The config.
    name: 'old', 'new' or 'side'.
    state: The state before the first step.
    step: (state, batch) -> (state, metrics), of one device.
    batches: Maps a step to the batches from there on.
    **options: More of `training.fit`'s, among them the directory.
  """
  mapped = parallel.pmap(step, in_axes=(None, 0), out_axes=None, donate=(0,))
  state = training.fit(
    state,
    lambda _, state, batch: mapped(state, batch),
    batches,
    name=name,
    settings=dataset.loop_settings(config),
    **options,
  )
  artifact.save_variables(
    options['directory'] / 'variables.msgpack',
    {'params': state.params, 'batch_stats': state.batch_stats},
  )


def _make_evaluate(config, model, source, rows, encoder, head):
  """Accuracy on the given rows, as a function of the state."""
  normalise = dataset.normaliser(config)

  def correct(params, batch_stats, batch):
    embedding = encoder.apply(
      {'params': params['encoder'], 'batch_stats': batch_stats},
      normalise(batch['image']),
      train=False,
    )
    logits = head.apply({'params': params['head']}, embedding)
    right = jnp.argmax(logits, axis=1) == batch['label']
    return jnp.sum(right & batch['where'])

  correct = parallel.pmap(correct, in_axes=(None, None, 0), out_axes=0)

  def evaluate(state):
    right = 0
    for batch in dataset.eval_batches(config, source, rows, model.batch_size):
      batch = parallel.shard(batch)
      right += np.sum(correct(state.params, state.batch_stats, batch))
    return {'accuracy': parallel.gather(right).sum() / len(rows)}

  return evaluate
