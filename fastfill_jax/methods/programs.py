"""The programs of a network's training: one step, and what runs it."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import losses, parallel
from fastfill_jax.methods import terms
from fastfill_jax.models import alignment
from fastfill_jax.training import loop, optim


def make_step(
  network, head, optimizer, error, options, label_smoothing, freeze_step
):
  """One step on a loss of terms: (state, batch, constants) -> (state, metrics).

  To be pmapped. The batch holds 'old', 'new' and perhaps 'side' [batch,
  embedding] and 'label' [batch]; constants are 'weights', the seed's 'key' and
  what else the terms read, so that one program serves all seeds and weights.

  Args:
    network: A `Map`.
    head: The new model's classifier module, or None if there is none.
    optimizer: Of the network.
    error: Names of the terms that the uncertainty predicts.
    options: Of every term, by name.
    label_smoothing: What terms read by this name.
    freeze_step: From this one on BatchNorm is frozen.
  """

  def loss_fn(params, batch_stats, batch, constants, train):
    outputs, updates = network.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['old'],
      batch.get('side'),
      batch['new'],
      train,
      method='outputs',
      mutable=['batch_stats'],
    )
    available = batch | constants | outputs
    available['label_smoothing'] = label_smoothing
    if head is not None:
      kernel = {'params': {'kernel': constants['class_weights']}}
      available['logits'] = head.apply(kernel, outputs['aligned'])
    values = terms.values(terms.TERMS, options, available)
    weighted = {
      name: constants['weights'][name] * value for name, value in values.items()
    }
    loss = losses.uncertain(
      [weighted[name] for name in error], outputs['log_variance']
    )
    for name, value in weighted.items():  # Always in the same order.
      if name not in error:
        loss += losses.per_example(value)
    metrics = {name: jnp.mean(value) for name, value in values.items()}
    metrics['loss'] = jnp.mean(loss)
    if outputs['log_variance'] is not None:
      metrics['log_variance'] = jnp.mean(outputs['log_variance'])
    return metrics['loss'], (metrics, updates.get('batch_stats', {}))

  def step(state, batch, constants):
    batch = {
      name: x if name == 'label' else x.astype(jnp.float32)
      for name, x in batch.items()
    }
    key = jax.random.fold_in(
      jax.random.wrap_key_data(constants['key']), state.step
    )
    constants = constants | {'key': parallel.device_key(key)}
    train = state.step < freeze_step
    return loop.update(optimizer, loss_fn, state, batch, constants, train)

  return step


@functools.cache  # All losses of a network begin alike.
def make_init(network, optimizer, widths):
  """init(key) -> State, of inputs of these widths by name."""

  @parallel.jit_once
  def init(key):
    example = {name: jnp.zeros((1, *width)) for name, width in widths}
    old, side, new = (example.get(x) for x in ('old', 'side', 'new'))
    variables = network.init(key, old, side, new, False, method='outputs')
    params = variables['params']
    batch_stats = variables.get('batch_stats', {})
    return loop.State(jnp.int32(0), params, batch_stats, optimizer.init(params))

  return init


@functools.cache
def _make_optimizer(recipe, num_steps):
  return optim.from_recipe(json.loads(recipe), num_steps)


@functools.cache  # All seeds, and all weights of the same terms, run these.
def make_programs(network, head, error, options, recipe, num_steps, widths):
  """-> (init, step), the step pmapped."""
  optimizer = _make_optimizer(recipe, num_steps)
  held = json.loads(recipe)
  step = make_step(
    network,
    head,
    optimizer,
    error,
    json.loads(options),
    held['label_smoothing'],
    int(held['freeze_batch_norm'] * num_steps),
  )
  step = parallel.pmap(
    step, in_axes=(None, 0, None), out_axes=None, donate=(0,)
  )
  return make_init(network, optimizer, widths), step


def apply(
  network: alignment.Map, method: str, variables: Any, *arrays: np.ndarray
) -> Any:
  """Runs a method of a trained network, such as 'query', on all devices.

  Its arguments [row, embedding] need not divide over the devices; what it gives
  are NumPy arrays.
  """
  count = len(arrays[0])
  missing = parallel.round_up(count) - count
  padded = tuple(
    np.pad(np.asarray(x, np.float32), ((0, missing), (0, 0))) for x in arrays
  )
  out = _make_apply(network, method)(variables, parallel.shard(padded))
  return jax.tree.map(lambda x: parallel.unshard(x)[:count], out)


@functools.cache
def _make_apply(network, method):
  return parallel.pmap(
    lambda held, arrays: network.apply(held, *arrays, method=method),
    in_axes=(None, 0),
    out_axes=0,
    local=True,
  )
