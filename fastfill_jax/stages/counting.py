"""What a config's trainings cost, counted before they are run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fastfill_jax import models, parallel
from fastfill_jax.data import dataset
from fastfill_jax.methods import network, programs, terms
from fastfill_jax.models import heads
from fastfill_jax.stages import encode, request
from fastfill_jax.training import optim

# Training examples and classes, for those whose data is not at hand.
_SIZES = {
  'imagenet2012': (1_281_167, 1000),
  'places365_small': (1_803_460, 365),
  'cifar100': (50_000, 100),
}


def flops(step: Callable, *args: Any) -> float:
  """FLOPs of one call on one device, counted by XLA before it optimises.

  `step` is unmapped, and may average over `parallel.AXIS`; `args` are arrays,
  or shapes in their place.
  """
  mapped = jax.vmap(step, in_axes=None, axis_name=parallel.AXIS, axis_size=1)
  return jax.jit(mapped).lower(*args).cost_analysis()['flops']


def trainings(config: ConfigDict) -> list[tuple[str, int, float]]:
  """(name, steps, FLOPs of a step) of every encoder and network of a seed."""
  data = config.data.to_dict()
  size, classes = _SIZES.get(data['name'], (0, 0))
  if not size:
    how = request.how(config, parallel.Preemption())
    source = dataset.open_split(data, data['train_split'], how)
    size, classes = len(source), source.num_classes
  encoders, found = config.encoders.to_dict(), []
  for name in request.in_order(encoders, request.needed(config)):
    recipe = encoders[name]
    share = len(recipe['classes']) / classes or recipe['class_fraction']
    steps = optim.num_steps(recipe, int(share * size))
    found.append((name, steps, _encoder_flops(recipe, data, classes)))
  recipe = config.align.to_dict()
  for row in request.rows(config):
    if not isinstance(row.method, network.Network):
      continue
    widths = {
      role: encoders[name]['encoder']['embedding_dim']
      for role, name in (('old', row.old), ('new', row.new), ('side', 'side'))
    }
    own = recipe | row.method.recipe
    counted = _network_flops(row.method, widths, own, classes)
    found.append((row.name, optim.num_steps(own, size), counted))
  return found


def _encoder_flops(recipe, data, classes) -> float:
  """FLOPs of a training step; a teacher's pass is not counted."""
  transform = recipe['transform'] or data['train_transform']
  side = transform.get('size', 32)
  views = (2,) if transform['name'] == 'simclr' else ()
  shape = (recipe['batch_size'], *views, side, side, len(data['mean']))
  encoder = models.make_encoder(axis_name=parallel.AXIS, **recipe['encoder'])
  head = heads.make_head(classes, **recipe['head'])
  optimizer = optim.from_recipe(recipe, recipe['num_epochs'])
  own = {'classify', 'simclr'}.intersection(recipe['terms'])
  recipe = recipe | {
    'terms': {name: recipe['terms'][name] for name in sorted(own)}
  }
  normalise = dataset.normaliser(data)
  step = encode.make_step(encoder, head, optimizer, normalise, recipe)
  batch = {
    'image': jax.ShapeDtypeStruct(shape, jnp.uint8),
    'label': jax.ShapeDtypeStruct(shape[:1], jnp.int32),
  }
  images = jax.ShapeDtypeStruct((1, *shape[-3:]), jnp.float32)
  state = jax.eval_shape(
    lambda x: encode.initialise(encoder, head, optimizer, x, 0), images
  )
  return flops(step, state, batch, {})


def _network_flops(method, widths, recipe, classes) -> float:
  """FLOPs of a training step of an alignment."""
  optimizer = optim.from_recipe(recipe, recipe['num_epochs'])
  network = method.make_network(widths['new'], recipe, parallel.AXIS)
  weights, options = terms.parse({**method.error, **method.terms}, terms.TERMS)
  given = network, heads.Linear(classes), optimizer, tuple(method.error)
  step = programs.make_step(*given, options, recipe['label_smoothing'], 1)
  size = recipe['batch_size']
  batch = {
    name: jax.ShapeDtypeStruct((size, width), jnp.float32)
    for name, width in widths.items()
    if name != 'side' or method.side
  }
  inputs = tuple((name, x.shape[1:]) for name, x in batch.items())
  key = jax.random.key(0)
  state = jax.eval_shape(programs.make_init(network, optimizer, inputs), key)
  batch['label'] = jax.ShapeDtypeStruct((size,), jnp.int32)
  constants = {
    'weights': weights,
    'key': jax.random.key_data(key),
    'class_weights': jnp.zeros((widths['new'], classes)),
    'new_square': jnp.float32(1),
  }
  return flops(step, state, batch, constants)
