"""Optimisers and schedules: Optax chains from the numbers of a config."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from fastfill_jax import choices, parallel


def make_schedule(
  learning_rate: float, num_steps: int, warmup_steps: int
) -> optax.Schedule:
  """Linear warm-up from 0, then cosine to 0."""
  if not 0 <= warmup_steps < num_steps:
    raise ValueError(
      f'warmup_steps={warmup_steps} must lie in [0, num_steps={num_steps}).'
    )
  return optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else learning_rate,
    learning_rate,
    warmup_steps,
    num_steps,
  )


def make_optimizer(
  name: str,
  learning_rate: float,
  *,
  num_steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
  momentum: float = 0.0,
) -> optax.GradientTransformation:
  """SGD or Adam with the weight decay added to the gradient (L2), or Muon.

  'sgd' has heavy-ball momentum, no Nesterov; 'adam' keeps 0.9 and 0.999. 'muon'
  (Jordan et al. 2024): the momentum of every convolution, orthogonalised and
  scaled to an update of Adam's size, with decoupled weight decay; Adam at a
  tenth of the rate for the classifier, scales and biases.

  Raises:
    ValueError: If the name is unknown or a number is out of range.
  """
  if learning_rate <= 0 or weight_decay < 0 or not 0 <= momentum < 1:
    raise ValueError(
      'An optimiser takes learning_rate > 0, weight_decay >= 0 and momentum in '
      f'[0, 1), got {learning_rate}, {weight_decay} and {momentum}.'
    )
  inner = {'sgd': lambda: optax.trace(momentum), 'adam': optax.scale_by_adam}
  choices.check('optimiser', name, (*inner, 'muon'))
  schedule = make_schedule(learning_rate, num_steps, warmup_steps)
  if name == 'muon':
    return optax.contrib.muon(
      schedule,
      beta=momentum,
      weight_decay=weight_decay,
      muon_weight_dimension_numbers=_convolutions,
      consistent_rms=0.2,
      adam_learning_rate=lambda step: 0.1 * schedule(step),
    )
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    inner[name](),
    optax.scale_by_learning_rate(schedule),
  )


def _convolutions(params):
  """How Muon sees every parameter: as a matrix [inputs, output], or not."""
  dimensions = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
  return jax.tree.map(lambda x: dimensions if x.ndim == 4 else None, params)


def num_steps(recipe: Mapping[str, Any], num_examples: int) -> int:
  """The length of a recipe's training, in whole batches of each epoch.

  Raises:
    ValueError: If a batch is larger than an epoch, or does not divide over
      the devices.
  """
  batch_size = recipe['batch_size']
  parallel.check_batch_size(batch_size)
  if num_examples < batch_size:
    raise ValueError(
      f'batch_size={batch_size} is larger than the {num_examples} training '
      'examples.'
    )
  return num_examples // batch_size * recipe['num_epochs']


def from_recipe(
  recipe: Mapping[str, Any], steps: int
) -> optax.GradientTransformation:
  """The optimiser of a recipe: its schedule has so many steps in all."""
  return make_optimizer(
    num_steps=steps,
    warmup_steps=steps * recipe['warmup_epochs'] // recipe['num_epochs'],
    **recipe['optimizer'],
  )
