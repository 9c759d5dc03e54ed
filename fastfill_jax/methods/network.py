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
    self,
    new_dim: int,
    recipe: Mapping[str, Any],
    axis_name: str | None = None,
  ) -> alignment.Map:
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
    network = self.make_network(widths['new'][0], recipe, parallel.AXIS)
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
    init, running, frozen = programs.make_programs(
      network,
      classifier.head if classifier else None,
      tuple(sorted(name for name in self.error if name in weights)),
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
    constants['new_square'] = np.float32(_mean_square(views))
    state = init(jax.random.key(seed))
    if 'new_square' in state.batch_stats:
      held = state.batch_stats | {'new_square': constants['new_square']}
      state = state.replace(batch_stats=held)
    freeze_step = int(recipe['freeze_batch_norm'] * num_steps)
    state = loop.fit(
      state,
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

  def load(self, directory) -> method.Maps:
    """See `Method`."""
    fields = artifact.read_json(directory / 'network.json')
    network = self.make_network(fields.pop('new_dim'), fields)
    variables = artifact.load_variables(directory / 'variables.msgpack')

    def run(name, *arrays):
      return programs.apply(network, name, variables, *arrays)

    def align(old, side=None):
      return run('__call__', old, *((side,) if self.side else ()))

    if self.acts_on == 'query':
      return method.Maps(
        lambda old, side=None: (np.asarray(old, np.float32), None),
        query=lambda new: align(new)[0],
        new_dim=None,
      )
    return method.Maps(
      align,
      query=functools.partial(run, 'query') if self._has('query') else None,
      store=functools.partial(run, 'store') if self._has('store') else None,
      new_dim=network.new_dim if network.in_new_space else None,
    )

  def _has(self, name: str) -> bool:
    """Whether the network has its own of a method of `Map`."""
    return getattr(self.network, name) is not getattr(alignment.Map, name)


def _needs(name: str) -> tuple[str, ...]:
  """What has to be there for a term, in the words of `Method.reads`."""
  kinds = {
    'label': 'label',
    'logits': 'classifier',
    'class_weights': 'classifier',
  }
  return tuple(
    kinds[read] for read in terms.reads(terms.TERMS[name]) if read in kinds
  )


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
