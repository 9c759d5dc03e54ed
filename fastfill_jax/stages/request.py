"""What a config asks for: read here, and checked before any work."""

import dataclasses
import json
import re
from typing import Any

from ml_collections import ConfigDict

from fastfill_jax import choices, curve, methods, parallel
from fastfill_jax.data import dataset, transforms
from fastfill_jax.methods import method
from fastfill_jax.stages import embed, encode, evaluate, sequence, serve
from fastfill_jax.training import optim

# In this order; an earlier one's result is what a later one goes on with.
STAGES = (
  'encode',
  'embed',
  'align',
  'evaluate',
  'serve',
  'plan',
  'sequence',
  'report',
)
SIDE = 'side'  # The encoder of side-information.


@dataclasses.dataclass(frozen=True)
class Row:
  """One of `config.alignments`.

  Attributes:
    name: In the table.
    definition: Of its method, as `methods.make` takes it.
    method: The method, before it is fitted.
    old: The encoder of the stored gallery.
    new: The encoder of the queries, and of what is backfilled.
    fuse: The share of the aligned embedding that a backfilled item keeps.
  """

  name: str
  definition: dict[str, Any]
  method: method.Method
  old: str
  new: str
  fuse: float

  @property
  def fit(self) -> str:
    """What its fitted map depends on: rows may share one."""
    return json.dumps([self.definition, self.old, self.new], sort_keys=True)

  @property
  def folder(self) -> str:
    """Its name without what a path cannot hold."""
    return '_'.join(re.findall(r'[\w+-]+', self.name))


def rows(config: ConfigDict) -> list[Row]:
  """The rows of the table.

  Raises:
    ValueError: If a method, a field or a value is unknown, naming the row.
  """
  found = []
  for name, fields in config.alignments.to_dict().items():
    old, new = fields.pop('old', 'old'), fields.pop('new', 'new')
    fuse = float(fields.pop('fuse', 0.0))
    definition = {'name': fields.pop('method', None)} | fields
    try:
      made = methods.make(**definition)
      if not 0 <= fuse <= 1:
        raise ValueError(f'fuse={fuse} is a share in [0, 1].')
    except ValueError as error:
      raise ValueError(f'alignments[{name!r}]: {error}') from error
    found.append(Row(name, definition, made, old, new, fuse))
  choices.check('main_alignment', config.main_alignment, config.alignments)
  return found


def needed(config: ConfigDict) -> list[str]:
  """The encoders that the rows and the sequence read."""
  table = rows(config)
  names = [x for row in table for x in (row.old, row.new)]
  names += [SIDE for row in table if SIDE in row.method.reads]
  names += [config.sequence.newer] if config.sequence.newer else []
  return list(dict.fromkeys(names))


def others(recipe: dict[str, Any]) -> list[str]:
  """The encoders that an encoder's recipe names."""
  return [x for x in (recipe['teacher'], recipe['start']) if x]


def in_order(encoders: dict[str, Any], names: list[str]) -> list[str]:
  """The encoders of these names and those they read, those first."""
  done: list[str] = []

  def visit(name, path=()):
    if name in path:
      raise ValueError(f'Encoders read each other: {" -> ".join(path)}.')
    for other in others(encoders[name]):
      visit(other, (*path, name))
    if name not in done:
      done.append(name)

  for name in names:
    visit(name)
  return done


def how(config: ConfigDict, preemption: parallel.Preemption) -> parallel.How:
  """How the stages go about it: the keys of `config.run`."""
  keys = {field.name for field in dataclasses.fields(parallel.How)}
  return parallel.How(
    preemption, **{k: v for k, v in config.run.items() if k in keys}
  )


def check(config: ConfigDict):
  """Raises a ValueError for what can be known to be wrong before any work.

  Names that came as a,b from the command line become (a, b).
  """
  config.stages = _split(config.stages)
  for part in (config.evaluate, config.serve, config.sequence):
    part.policies = _split(part.policies)
  if not config.stages:
    raise ValueError(f'stages=(): choose one or more of {STAGES}.')
  for stage in config.stages:
    choices.check('stage', stage, STAGES)
  seeds = list(config.seeds)
  if not seeds or not all(isinstance(x, int) and x >= 0 for x in seeds):
    raise ValueError(f'seeds={config.seeds}: one or more numbers >= 0.')
  how(config, parallel.Preemption())
  choices.check('run.sweep_backend', config.run.sweep_backend, curve.BACKENDS)
  table = rows(config)
  if not config.embed.source:
    _check_encoders(config, table)
  parallel.check_batch_size(config.align.batch_size)
  share = config.align.freeze_batch_norm
  if not 0 <= share <= 1:
    raise ValueError(f'align.freeze_batch_norm={share}; a share in [0, 1].')
  embed.check(config.embed.views, config.embed.dtype)
  swept, served = config.evaluate, config.serve
  evaluate.check(swept.policies, swept.steps, swept.distance)
  serve.check(served.policies, served.index, served.k, swept.distance)
  for name in served.policies:
    choices.check('policy of evaluate', name, swept.policies)
  if config.sequence.newer:
    sequence.check(config.sequence.policies, config.sequence.switches)


def _split(names):
  return tuple(name for part in names for name in part.split(','))


def _check_encoders(config, table):
  encoders = config.encoders.to_dict()
  for name in needed(config):
    choices.check('encoder', name, encoders)
  for name, recipe in encoders.items():
    for other in others(recipe):
      choices.check(f'encoder that {name!r} reads', other, encoders)
    encode.check(name, recipe)
    if recipe['teacher']:
      encode.check_teacher(name, recipe, encoders[recipe['teacher']])
  in_order(encoders, encoders)
  share = config.data.validation_fraction
  if not 0 <= share < 1:
    raise ValueError(f'data.validation_fraction={share}: a share in [0, 1).')
  transforms.make_transform(**config.data.train_transform)
  transforms.make_transform(**config.data.eval_transform)
  if config.data.gallery_transform:
    transforms.make_transform(**config.data.gallery_transform)
  for row in table:
    old, new = (
      encoders[x]['encoder']['embedding_dim'] for x in (row.old, row.new)
    )
    if row.definition['name'] == 'identity' and old != new:
      raise ValueError(
        f'alignments[{row.name!r}]: the identity needs encoders of one width, '
        f'got embedding_dim={old} ({row.old}) and {new} ({row.new}).'
      )


def describe(config: ConfigDict, how: parallel.How) -> dataset.Data | None:
  """The data set, and whether it does for all trainings.

  None for embeddings that are there.
  """
  if config.embed.source:
    return None
  data = dataset.describe(config.data.to_dict(), how)
  encoders = config.encoders.to_dict()
  for name in in_order(encoders, needed(config)):
    encode.check_data(data, encoders[name], how)
  source = dataset.open_split(data, data['train_split'], how)
  size = len(dataset.split_rows(data, source)[0])
  recipe = config.align.to_dict()
  optim.from_recipe(recipe, optim.num_steps(recipe, size))
  return data
