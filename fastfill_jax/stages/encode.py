"""Stage 'encode': an encoder and its head.

FastFill trains the new model freely: plain classification, no compatibility
loss (arXiv 2303.04766, section 3). An encoder may read another, frozen one,
its teacher: what older methods do to the new model.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import models, parallel
from fastfill_jax.data import dataset, loading, pixels, transforms
from fastfill_jax.methods import encoder_terms, terms
from fastfill_jax.models import heads
from fastfill_jax.storage import artifact
from fastfill_jax.training import loop, optim

Recipe = dict[str, Any]


def check(name: str, recipe: Recipe):
  """Raises a ValueError if a recipe is wrong, before any data is read."""
  models.make_encoder(**recipe['encoder'])
  heads.make_head(1, **recipe['head'])
  parallel.check_batch_size(recipe['batch_size'])
  weights, _ = terms.parse(recipe['terms'], encoder_terms.TERMS)
  read = _read(recipe)
  if bool(recipe['teacher']) != any('teacher' in x for x in read):
    raise ValueError(
      f'encoders.{name}: terms {sorted(weights)} and teacher='
      f'{recipe["teacher"]!r} do not go together.'
    )
  share = recipe['minority_fraction']
  if not 0 < share <= 1:
    raise ValueError(
      f'encoders.{name}.minority_fraction={share}: a share in (0, 1].'
    )
  if recipe['transform']:
    transforms.make_transform(**recipe['transform'])


def check_teacher(name: str, recipe: Recipe, teacher: Recipe):
  """Raises a ValueError if terms cannot compare an encoder with its teacher."""
  who = f'encoders.{name}: terms {sorted(recipe["terms"])}'
  own, other = (x['encoder']['embedding_dim'] for x in (recipe, teacher))
  if own != other:
    raise ValueError(
      f'{who} compare its embedding with that of {recipe["teacher"]!r}, which '
      f'must be of one width: embedding_dim={own} and {other}.'
    )
  head = teacher['head']['name']
  if 'teacher_weights' in _read(recipe) and head != 'linear':
    raise ValueError(
      f'{who} read the classifier of {recipe["teacher"]!r}, whose head is '
      f"{head!r}, not 'linear'."
    )


def check_data(data: dataset.Data, recipe: Recipe, how: parallel.How):
  """Raises a ValueError if the data does not do for training by a recipe."""
  source = dataset.open_split(data, data['train_split'], how)
  rows, _ = dataset.split_rows(data, source)
  rows = dataset.select_rows(data, recipe, source, rows)
  optim.from_recipe(recipe, optim.num_steps(recipe, len(rows)))


def encode(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  recipe: Recipe,
  data: dataset.Data,
  seed: int,
  others: dict[str, artifact.Artifact],
):
  """Trains an encoder into variables.msgpack and recipe.json.

  By a recipe of `config.encoders`, on `dataset.of_training`; `others` are the
  encoders that `recipe['teacher']` and `recipe['start']` name.
  """
  source = dataset.open_split(data, data['train_split'], how, how.in_memory)
  rows, validation = dataset.split_rows(data, source)
  rows = dataset.select_rows(data, recipe, source, rows)
  encoder = models.make_encoder(axis_name=parallel.AXIS, **recipe['encoder'])
  head = heads.make_head(source.num_classes, **recipe['head'])
  steps = optim.num_steps(recipe, len(rows))
  optimizer = optim.from_recipe(recipe, steps)
  normalise = dataset.normaliser(data)
  transform = transforms.make_transform(
    **(recipe['transform'] or data['train_transform'])
  )
  image = pixels.decode(source[0]['image'], source.channels)
  image = _flat(transform(np.random.default_rng(0), image)[None])
  state = initialise(encoder, head, optimizer, normalise(image), seed)
  if recipe['start']:
    _, held, _ = load(others[recipe['start']])
    state = state.replace(
      params=state.params | {'encoder': held['params']},
      batch_stats=held['batch_stats'],
    )
  teacher, constants = None, {}
  if recipe['teacher']:
    teacher, constants = _teach(others[recipe['teacher']], data, source)
  step = make_step(encoder, head, optimizer, normalise, recipe, teacher)
  mapped = parallel.pmap(
    step, in_axes=(None, 0, None), out_axes=None, donate=(0,)
  )
  share = {
    'batch_size': recipe['batch_size'],
    'process_index': parallel.process_index(),
    'process_count': parallel.process_count(),
    'num_workers': how.num_workers,
  }
  evaluate = None
  if len(validation) and 'classify' in recipe['terms']:
    # Classes that were not trained on cannot be right.
    seen = np.unique(source.labels[rows])
    validation = validation[np.isin(source.labels[validation], seen)]
    evaluate = _make_evaluate(data, source, validation, encoder, head, share)
  state = loop.fit(
    state,
    lambda _, state, batch: mapped(state, batch, constants),
    lambda start: loading.loader(
      source, rows, transform, start_step=start, seed=seed, **share
    ),
    num_steps=steps,
    directory=directory,
    how=how,
    evaluate=evaluate,
  )
  if parallel.is_main():
    written = recipe | {'num_classes': source.num_classes}
    artifact.write_json(directory / 'recipe.json', written)
  artifact.save_variables(
    directory / 'variables.msgpack',
    {'params': state.params, 'batch_stats': state.batch_stats},
  )


def load(trained: artifact.Artifact) -> tuple[Recipe, Any, Any]:
  """A recipe with its num_classes, the encoder's variables, the head's."""
  recipe = artifact.read_json(trained.directory / 'recipe.json')
  held = artifact.load_variables(trained.directory / 'variables.msgpack')
  params, stats = held['params'], held['batch_stats']
  encoder = {'params': params['encoder'], 'batch_stats': stats}
  return recipe, encoder, params['head']


def make_step(encoder, head, optimizer, normalise, recipe, teacher=None):
  """One step on the recipe's terms.

  Returns:
    step(state, batch, constants) -> (state, metrics), to be pmapped; batch
    holds 'image' uint8 [batch, (view,) height, width, channel] and 'label' int
    [batch]; constants are what `_teach` gives.
  """
  weights, options = terms.parse(recipe['terms'], encoder_terms.TERMS)

  def loss_fn(params, batch_stats, batch, constants):
    # All views in one pass, so that BatchNorm sees them together.
    images = normalise(_flat(batch['image']))
    embedding, updates = encoder.apply(
      {'params': params['encoder'], 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    label = None if batch['image'].ndim == 5 else batch['label']
    available = constants | {
      'embedding': embedding,
      'logits': head.apply({'params': params['head']}, embedding, label),
      'label': batch['label'],
      'label_smoothing': recipe['label_smoothing'],
    }
    if teacher is not None:
      known = teacher(constants['teacher'], images)
      available['teacher_embedding'] = jax.lax.stop_gradient(known)
    values = terms.values(encoder_terms.TERMS, options, available)
    metrics = {name: jnp.mean(value) for name, value in values.items()}
    loss = jnp.float32(0)
    for name, value in metrics.items():  # Always in the same order.
      loss += weights[name] * value
    if 'classify' in weights:
      right = jnp.argmax(available['logits'], axis=1) == batch['label']
      metrics['train_accuracy'] = jnp.mean(right)
    return loss, (metrics | {'loss': loss}, updates.get('batch_stats', {}))

  return functools.partial(loop.update, optimizer, loss_fn)


def initialise(encoder, head, optimizer, images, seed) -> loop.State:
  """The state before the first step; images set the input's shape."""

  @parallel.jit_once  # One program instead of one for every layer.
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
    return loop.State(jnp.int32(0), params, batch_stats, optimizer.init(params))

  return init(jax.random.key(seed))


def _read(recipe: Recipe) -> set[str]:
  """What a recipe's terms read."""
  held = encoder_terms.TERMS
  return {x for name in recipe['terms'] for x in terms.reads(held[name])}


def _flat(images):
  """[batch, (view,) ...] -> [view * batch, ...], the first views first."""
  if images.ndim == 4:
    return images
  return jnp.concatenate([images[:, i] for i in range(images.shape[1])])


def _teach(teacher: artifact.Artifact, data, source):
  """The frozen encoder as a function, and the constants terms read of it."""
  recipe, variables, head = load(teacher)
  network = models.make_encoder(**recipe['encoder'])
  rows, _ = dataset.split_rows(data, source)
  seen = source.labels[dataset.select_rows(data, recipe, source, rows)]
  constants = {
    'teacher': variables,
    'teacher_weights': head['kernel'],
    'teacher_classes': np.isin(np.arange(source.num_classes), seen),
  }
  return functools.partial(network.apply, train=False), constants


def _make_evaluate(data, source, rows, encoder, head, share):
  """Accuracy on the given rows, as a function of the state."""
  normalise = dataset.normaliser(data)
  transform = transforms.make_transform(**data['eval_transform'])

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
    batches = loading.batches_in_order(source, rows, transform, seed=0, **share)
    for batch in map(parallel.shard, batches):
      right += np.sum(correct(state.params, state.batch_stats, batch))
    return {'accuracy': parallel.gather(right).sum() / len(rows)}

  return evaluate
