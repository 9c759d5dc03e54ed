"""Methods that train a network on pairs: one trainer for all of them."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import losses, parallel
from fastfill_jax.methods import method, terms
from fastfill_jax.models import alignment, heads
from fastfill_jax.storage import artifact, splits
from fastfill_jax.training import loop, optim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(method.Method):
  """A network and its loss.

  Attributes:
    network: A `models.alignment.Map`.
    options: Of the network, such as {'hidden_dim': 512}.
    error: Terms by weight, whose sum the uncertainty predicts.
    terms: Terms by weight that are added as they are.
    uncertainty: One log-variance per 'example', per 'coordinate', or 'none'.
    side: Whether the network reads side-information.
    recipe: What differs from the config's recipe of training.
  """

  network: type[alignment.Map]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  error: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  terms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  uncertainty: str = 'none'
  side: bool = False
  recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    super().__post_init__()
    weights, _ = self._parsed()
    if not any(weights.values()):
      raise ValueError(f'The weights {weights} of the loss are all 0.')
    if self.uncertainty != 'none' and not any(weights[x] for x in self.error):
      raise ValueError(
        f'uncertainty={self.uncertainty!r} has no error to predict: '
        f'error={dict(self.error)}.'
      )
    self._make(1, {})
    if self.acts_on == 'query' and self.uncertainty != 'none':
      raise ValueError(
        "acts_on='query' leaves the gallery as it is: set uncertainty='none'."
      )

  @property
  def reads(self) -> tuple[str, ...]:
    """See `Method`."""
    weights, _ = self._parsed()
    needed = {x for name in weights if weights[name] for x in _needs(name)}
    needed |= {'side'} if self.side else set()
    return tuple(sorted(needed))

  def _parsed(self):
    return terms.parse({**self.error, **self.terms}, terms.TERMS)

  def _make(self, new_dim, recipe, axis_name=None) -> alignment.Map:
    """The network, its hidden width by default the recipe's."""
    fields = {field.name for field in dataclasses.fields(self.network)}
    options = {k: v for k, v in recipe.items() if k in fields} | self.options
    return self.network(
      new_dim=new_dim,
      uncertainty=self.uncertainty,
      axis_name=axis_name,
      **options,
    )

  def fit(self, directory, how, views, classifier, recipe, seed):
    """Trains from the last checkpoint in the directory; see `Method`."""
    recipe = {**recipe, **self.recipe}
    views = [_turned(view, self.acts_on) for view in views]
    widths = {name: view.shape[1:] for name, view in views[0].items()}
    size = len(views[0]['old'])
    network = self._make(widths['new'][0], recipe, parallel.AXIS)
    num_steps = optim.num_steps(recipe, size)
    if self.acts_on == 'query':
      classifier = None  # Its embeddings are not those of the gallery.
    there = {*views[0], *(('classifier',) if classifier else ())}
    weights, options = self._parsed()
    # Terms of weight 0 stay, if they can: one program serves all weights.
    weights = {
      name: weight
      for name, weight in weights.items()
      if weight or there.issuperset(_needs(name))
    }
    init, running, frozen = _make_programs(
      network,
      classifier.head if classifier else None,
      tuple(name for name in self.error if name in weights),
      json.dumps({name: options[name] for name in weights}, sort_keys=True),
      json.dumps(recipe, sort_keys=True),
      num_steps,
      tuple(widths.items()),
    )
    constants = {
      'weights': weights,
      'key': jax.random.key_data(jax.random.key(seed)),
    }
    if classifier:
      constants['class_weights'] = classifier.kernel
    if any('new_square' in _reads(name) for name in weights):
      constants['new_square'] = np.float32(_mean_square(views))
    freeze_step = int(recipe['freeze_batch_norm'] * num_steps)
    state = loop.fit(
      init(jax.random.key(seed)),
      lambda step, state, batch: (running if step < freeze_step else frozen)(
        state, batch, constants
      ),
      lambda start: splits.batches(views, recipe['batch_size'], seed, start),
      num_steps=num_steps,
      directory=directory,
      how=how,
    )
    if parallel.is_main():
      fields = {'new_dim': network.new_dim} | {
        name: getattr(network, name)
        for name in ('hidden_dim',)
        if hasattr(network, name)
      }
      artifact.write_json(directory / 'network.json', fields)
    artifact.save_variables(
      directory / 'variables.msgpack',
      {'params': state.params, 'batch_stats': state.batch_stats},
    )

  def example_step(self, widths, recipe, classes):
    """An unmapped training step and the shapes of its arguments."""
    recipe = {**recipe, **self.recipe}
    network = self._make(widths['new'], recipe, parallel.AXIS)
    optimizer = optim.from_recipe(recipe, recipe['num_epochs'])
    weights, options = self._parsed()
    step = make_step(
      network,
      heads.Linear(classes),
      optimizer,
      tuple(self.error),
      options,
      recipe['label_smoothing'],
      True,
    )
    size = recipe['batch_size']
    batch = {
      name: jax.ShapeDtypeStruct((size, width), jnp.float32)
      for name, width in widths.items()
      if name != 'side' or self.side
    }
    state = jax.eval_shape(
      _make_init(
        network,
        optimizer,
        tuple((name, x.shape[1:]) for name, x in batch.items()),
      ),
      jax.random.key(0),
    )
    constants = {
      'weights': weights,
      'key': jax.random.key_data(jax.random.key(0)),
      'class_weights': jnp.zeros((widths['new'], classes)),
      'new_square': jnp.float32(1),
    }
    batch['label'] = jax.ShapeDtypeStruct((size,), jnp.int32)
    return step, state, batch, constants

  def load(self, directory) -> method.Maps:
    """See `Method`."""
    fields = artifact.read_json(directory / 'network.json')
    new_dim = fields.pop('new_dim')
    network = self._make(new_dim, fields)
    variables = artifact.load_variables(directory / 'variables.msgpack')

    def align(old, side=None):
      arrays = {'old': old} | ({'side': side} if self.side else {})
      return _padded(_make_apply(network), variables, arrays)

    def query(new):
      return _padded(_make_query(network), variables, {'old': new})

    if self.acts_on == 'query':
      return method.Maps(
        lambda old, side=None: (np.asarray(old, np.float32), None),
        lambda new: align(new)[0],
      )
    mapped = self.network.query is not alignment.Map.query
    return method.Maps(align, query if mapped else None)


def _reads(name: str) -> tuple[str, ...]:
  return terms.reads(terms.TERMS[name])


def _needs(name: str) -> tuple[str, ...]:
  """What has to be there for a term, in the words of `Method.reads`."""
  kinds = {
    'label': 'label',
    'logits': 'classifier',
    'class_weights': 'classifier',
  }
  return tuple(kinds[read] for read in _reads(name) if read in kinds)


def _turned(view, acts_on):
  """The pairs as the network sees them: its input is called old."""
  if acts_on == 'gallery':
    return view
  return dict(view) | {'old': view['new'], 'new': view['old']}


def _mean_square(views) -> float:
  """Mean squared distance of two new embeddings: 2 (E|x|^2 - |E x|^2)."""
  count, total, square = 0, 0.0, 0.0
  for (new,) in splits.blocks(views, 'new'):
    count += len(new)
    total = total + new.sum(axis=0, dtype=np.float64)
    square += float(np.sum(new.astype(np.float64) ** 2))
  return 2 * (square / count - float(np.sum((total / count) ** 2)))


def make_step(network, head, optimizer, error, options, label_smoothing, train):
  """One step on a loss of terms, to be pmapped.

  Args:
    network: A `Map`.
    head: The new model's classifier module, or None if there is none.
    optimizer: Of the network.
    error: Names of the terms that the uncertainty predicts.
    options: Of every term, by name.
    label_smoothing: What terms read by this name.
    train: False: BatchNorm is frozen.

  Returns:
    step(state, batch, constants) -> (state, metrics); batch holds 'old', 'new'
    and perhaps 'side' [batch, embedding] and 'label' [batch]; constants are
    'weights' and what else the terms read, so that one program serves all
    seeds and weights.
  """

  def loss_fn(params, batch_stats, batch, constants):
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
    values = {}
    for name, chosen in options.items():
      term = terms.TERMS[name]
      arguments = {read: available[read] for read in terms.reads(term)}
      values[name] = term(**arguments, **chosen)
    weighted = {
      name: constants['weights'][name] * value for name, value in values.items()
    }
    loss = losses.uncertain(
      [weighted[name] for name in error], outputs.get('log_variance')
    )
    for name in set(weighted) - set(error):
      loss += losses.per_example(weighted[name])
    metrics = {name: jnp.mean(value) for name, value in values.items()}
    metrics['loss'] = jnp.mean(loss)
    if 'log_variance' in outputs:
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
    return loop.update(optimizer, loss_fn, state, batch, constants)

  return step


def _make_init(network, optimizer, widths):
  @jax.jit
  def init(key):
    example = {name: jnp.zeros((1, *width)) for name, width in widths}
    variables = network.init(
      key,
      example['old'],
      example.get('side'),
      example['new'],
      False,
      method='outputs',
    )
    params = variables['params']
    return loop.State(
      jnp.int32(0),
      params,
      variables.get('batch_stats', {}),
      optimizer.init(params),
    )

  return init


@functools.cache  # All seeds, and all weights of the same terms, run these.
def _make_programs(network, head, error, options, recipe, num_steps, widths):
  """-> (init, step with BatchNorm running, and frozen)."""
  optimizer = optim.from_recipe(json.loads(recipe), num_steps)
  init = _make_init(network, optimizer, widths)
  running, frozen = (
    parallel.pmap(
      make_step(
        network,
        head,
        optimizer,
        error,
        json.loads(options),
        json.loads(recipe)['label_smoothing'],
        train,
      ),
      in_axes=(None, 0, None),
      out_axes=None,
      donate=(0,),
    )
    for train in (True, False)
  )
  return init, running, frozen


@functools.cache
def _make_apply(network):
  def apply(variables, batch):
    return network.apply(variables, batch['old'], batch.get('side'))

  return parallel.pmap(apply, in_axes=(None, 0), out_axes=0, local=True)


@functools.cache
def _make_query(network):
  def apply(variables, batch):
    return network.apply(variables, batch['old'], method='query')

  return parallel.pmap(apply, in_axes=(None, 0), out_axes=0, local=True)


def _padded(mapped, variables, batch):
  """Runs on rows [row, embedding] that need not divide over the devices."""
  count = len(batch['old'])
  rows = parallel.round_up(count)
  batch = {
    name: np.pad(np.asarray(x, np.float32), ((0, rows - count), (0, 0)))
    for name, x in batch.items()
  }
  out = mapped(variables, parallel.shard(batch))
  return jax.tree.map(lambda x: parallel.unshard(x)[:count], out)
