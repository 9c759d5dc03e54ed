"""Methods that train a network on pairs: one trainer for all of them."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fastfill_jax import choices, parallel
from fastfill_jax.methods import method, programs, terms
from fastfill_jax.models import alignment
from fastfill_jax.storage import artifact, splits
from fastfill_jax.training import loop, optim

# Fields of a `Map` that are not its options.
_FIXED = ('new_dim', 'uncertainty', 'axis_name')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(method.Method):
  """A network and its loss.

  Attributes:
    network: A `models.alignment.Map`, FastFill's by default.
    options: Of the network, such as {'hidden_dim': 512}.
    error: Terms by weight, whose sum the uncertainty predicts.
    terms: Terms by weight that are added as they are.
    uncertainty: One log-variance per 'example', per 'coordinate', or 'none'.
    side: Whether the network reads side-information.
    recipe: What differs from the config's recipe of training.
  """

  network: type[alignment.Map] = alignment.Alignment
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
    fields = {field.name for field in dataclasses.fields(self.network)}
    fields -= {*_FIXED, 'name', 'parent'}
    choices.check_keys('options of a method', self.options, sorted(fields))
    self.make_network(1, {})
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

  def make_network(
    self, new_dim: int, recipe: Mapping[str, Any], axis_name: str | None = None
  ) -> alignment.Map:
    """The network, its hidden width by default the recipe's."""
    fields = {field.name for field in dataclasses.fields(self.network)}
    options = {k: v for k, v in recipe.items() if k in fields} | self.options
    return self.network(new_dim, self.uncertainty, axis_name, **options)

  def fit(self, directory, how, views, classifier, recipe, seed):
    """Trains from the last checkpoint in the directory; see `Method`."""
    recipe = {**recipe, **self.recipe}
    if self.acts_on == 'query':  # What a network is given is called old.
      views = [{**x, 'old': x['new'], 'new': x['old']} for x in views]
      classifier = None  # Its embeddings are not those of the gallery.
    widths = {name: view.shape[1:] for name, view in views[0].items()}
    network = self.make_network(widths['new'][0], recipe, parallel.AXIS)
    num_steps = optim.num_steps(recipe, len(views[0]['old']))
    there = {*views[0], *(('classifier',) if classifier else ())}
    weights, options = self._parsed()
    # Terms of weight 0 stay, if they can: one program serves all weights.
    weights = {k: v for k, v in weights.items() if v or there >= {*_needs(k)}}
    init, step = programs.make_programs(
      network,
      classifier.head if classifier else None,
      tuple(sorted(name for name in self.error if name in weights)),
      json.dumps({name: options[name] for name in weights}, sort_keys=True),
      json.dumps(recipe, sort_keys=True),
      num_steps,
      tuple(widths.items()),
    )
    key, new_square = jax.random.key(seed), np.float32(_mean_square(views))
    constants = {
      'weights': weights,
      'key': jax.random.key_data(key),
      'new_square': new_square,
    }
    if classifier:
      constants['class_weights'] = classifier.kernel
    state = init(key)
    if 'new_square' in state.batch_stats:
      held = state.batch_stats | {'new_square': new_square}
      state = state.replace(batch_stats=held)
    state = loop.fit(
      state,
      lambda _, state, batch: step(state, batch, constants),
      lambda start: splits.batches(views, recipe['batch_size'], seed, start),
      num_steps=num_steps,
      directory=directory,
      how=how,
    )
    if parallel.is_main():
      names = [x for x in ('new_dim', 'hidden_dim') if hasattr(network, x)]
      fields = {name: getattr(network, name) for name in names}
      artifact.write_json(directory / 'network.json', fields)
    artifact.save_variables(
      directory / 'variables.msgpack',
      {'params': state.params, 'batch_stats': state.batch_stats},
    )

  def load(self, directory) -> method.Maps:
    """See `Method`."""
    fields = artifact.read_json(directory / 'network.json')
    network = self.make_network(fields.pop('new_dim'), fields)
    variables = artifact.load_variables(directory / 'variables.msgpack')

    def run(name, *arrays):
      return programs.apply(network, name, variables, *arrays)

    def align(old, side=None):
      return run('__call__', old, *((side,) if self.side else ()))

    def own(name):
      """A method of the network; None if it is as in every `Map`."""
      if getattr(self.network, name) is getattr(alignment.Map, name):
        return None
      return functools.partial(run, name)

    if self.acts_on == 'query':
      return method.of_query(lambda new: align(new)[0])
    new_dim = network.new_dim if network.in_new_space else None
    return method.Maps(align, own('query'), own('store'), new_dim)


def _needs(name: str) -> tuple[str, ...]:
  """What has to be there for a term, in the words of `Method.reads`."""
  kinds = dict.fromkeys(('logits', 'class_weights'), 'classifier')
  kinds['label'] = 'label'
  return tuple(kinds[x] for x in terms.reads(terms.TERMS[name]) if x in kinds)


def _mean_square(views) -> float:
  """Mean squared distance of two new embeddings: 2 (E|x|^2 - |E x|^2)."""
  count, total, square = 0, 0.0, 0.0
  for (new,) in splits.blocks(views, 'new'):
    count += len(new)
    total = total + new.sum(axis=0, dtype=np.float64)
    square += float(np.sum(new.astype(np.float64) ** 2))
  return 2 * (square / count - float(np.sum((total / count) ** 2)))
