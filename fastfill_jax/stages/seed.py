"""The rows of a table, and the stages of one seed that fill them.

Here the config's keys become the plain arguments of the stages.
"""

import dataclasses
import functools
import json
import re
from typing import Any

from ml_collections import ConfigDict

from fastfill_jax import choices, methods, models, parallel, report
from fastfill_jax.data import dataset
from fastfill_jax.methods import method
from fastfill_jax.stages import (
  align,
  embed,
  encode,
  evaluate,
  external,
  plan,
  sequence,
  serve,
)
from fastfill_jax.storage import artifact, splits

_SIDE = 'side'
Made = dict[str, artifact.Artifact]


@dataclasses.dataclass(frozen=True)
class Row:
  """One of `config.alignments`.

  Attributes:
    name: In the table.
    definition: Of its method, as `methods.make` takes it.
    old: The encoder of the stored gallery.
    new: The encoder of the queries, and of what is backfilled.
    fuse: The share of the aligned embedding that a backfilled item keeps.
  """

  name: str
  definition: dict[str, Any]
  old: str
  new: str
  fuse: float

  @functools.cached_property
  def method(self) -> method.Method:
    """Its method, before it is fitted."""
    return methods.make(**self.definition)

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
    row = Row(name, definition, old, new, fuse)
    try:
      row.method  # noqa: B018
      if not 0 <= fuse <= 1:
        raise ValueError(f'fuse={fuse} is a share in [0, 1].')
    except ValueError as error:
      raise ValueError(f'alignments[{name!r}]: {error}') from error
    found.append(row)
  choices.check('main_alignment', config.main_alignment, config.alignments)
  return found


def needed(config: ConfigDict, table: list[Row]) -> list[str]:
  """The encoders that the rows and the sequence read."""
  names = [x for row in table for x in (row.old, row.new)]
  names += [_SIDE for row in table if _SIDE in row.method.reads]
  names += [config.sequence.newer] if config.sequence.newer else []
  return list(dict.fromkeys(names))


def in_order(encoders: dict[str, Any], names: list[str]) -> list[str]:
  """The encoders of these names and those they read, those first."""
  done: list[str] = []

  def visit(name, path=()):
    if name in path:
      raise ValueError(f'Encoders read each other: {" -> ".join(path)}.')
    recipe = encoders[name]
    for other in filter(None, (recipe['teacher'], recipe['start'])):
      visit(other, (*path, name))
    if name not in done:
      done.append(name)

  for name in names:
    visit(name)
  return done


@dataclasses.dataclass
class Seed:
  """The stages of one seed, and what they made.

  Attributes:
    data: The data's description; None for embeddings that are there.
    results: Of every row that was evaluated.
    trained: What was trained, by its name in the report.
    embedded: Where the arrays of each encoder lie.
    fitted: The rows' maps, by `Row.fit`.
  """

  config: ConfigDict
  workdir: artifact.Workdir
  how: parallel.How
  data: dataset.Data | None
  seed: int
  results: list[report.Result] = dataclasses.field(default_factory=list)
  trained: Made = dataclasses.field(default_factory=dict)
  embedded: Made = dataclasses.field(default_factory=dict)
  fitted: Made = dataclasses.field(default_factory=dict)

  @property
  def _encoder_seed(self) -> int:
    shared = self.config.share_encoders or self.config.embed.source
    return self.config.seeds[0] if shared else self.seed

  @property
  def _swept(self) -> dict[str, Any]:
    return {
      'steps': self.config.evaluate.steps,
      'distance': self.config.evaluate.distance,
      'seed': self.seed,
    }

  def _make(self, stage, name, build, /, **given):
    return self.workdir.make(stage, name, build, self.how, **given)

  def encode(self, names) -> dict[str, artifact.Artifact]:
    """Trains encoders, and those they read."""
    made, seed = {}, self._encoder_seed
    encoders = self.config.encoders.to_dict()
    for name in in_order(encoders, names):
      recipe = encoders[name]
      others = sorted({recipe['teacher'], recipe['start']} - {''})
      made[name] = self._make(
        'encode',
        f'{name}/seed{seed}',
        encode.encode,
        code_of=[models.module_of(recipe['encoder']['name'])],
        recipe=recipe,
        data=dataset.of_training(self.data),
        seed=seed,
        others={other: made[other] for other in others},
      )
      self.trained[f'{name}/seed {seed}'] = made[name]
    return made

  def embed(self):
    """Embeds by all encoders that are needed, or takes what there is."""
    config, seed = self.config, self._encoder_seed
    if config.embed.source:
      self._take()
      return
    names = needed(config, rows(config))
    encoders = self.encode(names)
    for name in names:
      self.embedded[name] = self._make(
        'embed',
        f'{name}/seed{seed}',
        embed.embed,
        code_of=[models.module_of(config.encoders[name].encoder.name)],
        name=name,
        encoder=encoders[name],
        data=self.data,
        views=config.embed.views,
        dtype=config.embed.dtype,
        seed=seed,
      )
    self.embedded['columns'] = self._make(
      'embed', 'columns', embed.columns, data=self.data
    )

  def _take(self):
    """Takes embeddings that are there, if they do for all rows."""
    config = self.config
    self.embedded = external.make(
      self.workdir, self.how, config.embed.source, config.data.held_out
    )
    pairs = splits.Pairs(self.embedded)
    for row in rows(config):
      try:
        align.check_reads(row.method, pairs, self.embedded['new'])
      except ValueError as error:
        raise ValueError(f'alignments[{row.name!r}]: {error}') from error

  def _arrays(self, row, *more):
    """What a row's stages are given of the embeddings."""
    names = {row.old, row.new, *more, 'columns'}
    names |= {_SIDE} & set(row.method.reads)
    return {x: self.embedded[x] for x in sorted(names & set(self.embedded))}

  def align(self, row) -> artifact.Artifact:
    """Fits a row, unless another one has the same map."""
    if row.fit not in self.fitted:
      self.fitted[row.fit] = self._make(
        'align',
        f'{row.folder}/seed{self.seed}',
        align.align,
        code_of=[row.method.module],
        definition=row.definition,
        recipe=self.config.align.to_dict(),
        embedded=self._arrays(row),
        old=row.old,
        new=row.new,
        seed=self.seed,
      )
      self.trained[f'{row.name}/seed {self.seed}'] = self.fitted[row.fit]
    return self.fitted[row.fit]

  def table(self):
    """Fits and evaluates all rows; serves, plans and goes on with the main."""
    config = self.config
    for row in rows(config):
      self.align(row)
      if {'evaluate', 'serve', 'report'}.intersection(config.stages):
        evaluated = self.evaluate(row)
        self.results.append(report.Result.load(evaluated.directory))
      if row.name != config.main_alignment:
        continue
      if 'serve' in config.stages and config.serve.policies:
        self._serve(row, evaluated)
      source = self.embedded[row.old].directory
      if 'plan' in config.stages and (source / 'backfill').exists():
        self._plan(row)
      if 'sequence' in config.stages and config.sequence.newer:
        self._sequence(row)

  def _of(self, row):
    """A row, fitted, as its stages take it."""
    return {
      'definition': row.definition,
      'fitted': self.align(row),
      'embedded': self._arrays(row),
      'old': row.old,
      'new': row.new,
    }

  def evaluate(self, row) -> artifact.Artifact:
    """Sweeps a row, and its references unless another row has the same."""
    embedded = self._arrays(row)
    references = self._make(
      'evaluate',
      f'references/{row.old}-{row.new}/seed{self._encoder_seed}',
      evaluate.sweep_references,
      embedded={name: x for name, x in embedded.items() if name != _SIDE},
      old=row.old,
      new=row.new,
      distance=self._swept['distance'],
    )
    return self._make(
      'evaluate',
      f'{row.folder}/seed{self.seed}',
      evaluate.evaluate,
      code_of=[row.method.module],
      name=row.name,
      references=references,
      fuse=row.fuse,
      names=list(self.config.evaluate.policies),
      **self._of(row),
      **self._swept,
    )

  def _serve(self, row, evaluated):
    config = self.config.serve
    self._make(
      'serve',
      f'seed{self.seed}',
      serve.serve,
      evaluated=evaluated,
      embedded=self._arrays(row),
      new=row.new,
      policies=list(config.policies),
      kind=config.index,
      k=config.k,
      **self._swept,
    )

  def _plan(self, row):
    self._make(
      'plan',
      f'seed{self.seed}',
      plan.plan,
      names=list(self.config.evaluate.policies),
      seed=self.seed,
      **self._of(row),
    )

  def _sequence(self, row):
    config = self.config.sequence
    newer = config.newer
    second = dataclasses.replace(
      row, name=f'{row.name}, then', old=row.new, new=newer
    )
    direct = dataclasses.replace(row, name=f'{row.name}, at once', new=newer)
    self._make(
      'sequence',
      f'seed{self.seed}',
      sequence.sequence,
      definition=row.definition,
      first=self.align(row),
      second=self.align(second),
      direct=self.align(direct),
      embedded=self._arrays(row, newer),
      encoders=[row.old, row.new, newer],
      names=list(config.policies),
      switches=list(config.switches),
      **self._swept,
    )
