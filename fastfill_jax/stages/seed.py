"""The rows of a table, and the stages of one seed that fill them.

Here the config's keys become the plain arguments of the stages.
"""

import dataclasses
import functools
import json
import pathlib
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
    kept = ''.join(x if x.isalnum() or x in '+-_' else ' ' for x in self.name)
    return '_'.join(kept.split())


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
    for other in (encoders[name]['teacher'], encoders[name]['start']):
      if other:
        visit(other, (*path, name))
    if name not in done:
      done.append(name)

  for name in names:
    visit(name)
  return done


class Seed:
  """The stages of one seed.

  Attributes:
    results: Of every row that was evaluated.
    trained: What was trained, by its name in the report.
    tables: CSV files of the stages 'serve' and 'sequence', by stage.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: artifact.Workdir,
    how: parallel.How,
    data: dataset.Data | None,
    seed: int,
  ):
    """Takes the data's description, None for embeddings that are there."""
    self.results: list[report.Result] = []
    self.trained: dict[str, artifact.Artifact] = {}
    self.tables: dict[str, pathlib.Path] = {}
    self._config = config
    self._workdir = workdir
    self._how = how
    self._data = data
    self._seed = seed
    shared = config.share_encoders or config.embed.source
    self._encoder_seed = config.seeds[0] if shared else seed
    self._embedded: dict[str, artifact.Artifact] = {}
    self._fitted: dict[str, artifact.Artifact] = {}

  def _make(self, stage, name, build, /, **given):
    return self._workdir.make(stage, name, build, self._how, **given)

  def encode(self, names) -> dict[str, artifact.Artifact]:
    """Trains encoders, and those they read."""
    made, seed = {}, self._encoder_seed
    encoders = self._config.encoders.to_dict()
    for name in in_order(encoders, names):
      recipe = encoders[name]
      others = {x for x in (recipe['teacher'], recipe['start']) if x}
      made[name] = self._make(
        'encode',
        f'{name}/seed{seed}',
        encode.encode,
        code_of=[models.module_of(recipe['encoder']['name'])],
        recipe=recipe,
        data=dataset.of_training(self._data),
        seed=seed,
        others={other: made[other] for other in sorted(others)},
      )
      self.trained[f'{name}/seed {seed}'] = made[name]
    return made

  def embed(self):
    """Embeds by all encoders that are needed, or takes what there is."""
    config, seed = self._config, self._encoder_seed
    if config.embed.source:
      self._take()
      return
    names = needed(config, rows(config))
    encoders = self.encode(names)
    for name in names:
      self._embedded[name] = self._make(
        'embed',
        f'{name}/seed{seed}',
        embed.embed,
        code_of=[models.module_of(config.encoders[name].encoder.name)],
        name=name,
        encoder=encoders[name],
        data=self._data,
        views=config.embed.views,
        dtype=config.embed.dtype,
        seed=seed,
      )
    self._embedded['columns'] = self._make(
      'embed', 'columns', embed.columns, data=self._data
    )

  def _take(self):
    """Takes embeddings that are there, if they do for all rows."""
    config = self._config
    self._embedded = external.make(
      self._workdir, self._how, config.embed.source, config.data.held_out
    )
    pairs = splits.Pairs(self._embedded)
    for row in rows(config):
      try:
        align.check_reads(row.method, pairs, self._embedded['new'])
      except ValueError as error:
        raise ValueError(f'alignments[{row.name!r}]: {error}') from error

  def _arrays(self, row, *more):
    """What a row's stages are given of the embeddings."""
    names = {row.old, row.new, *more, 'columns'}
    names |= {_SIDE} & set(row.method.reads)
    return {x: self._embedded[x] for x in sorted(names & set(self._embedded))}

  def align(self, row) -> artifact.Artifact:
    """Fits a row, unless another one has the same map."""
    if row.fit not in self._fitted:
      self._fitted[row.fit] = self._make(
        'align',
        f'{row.folder}/seed{self._seed}',
        align.align,
        code_of=[row.method.module],
        definition=row.definition,
        recipe=self._config.align.to_dict(),
        embedded=self._arrays(row),
        old=row.old,
        new=row.new,
        seed=self._seed,
      )
      self.trained[f'{row.name}/seed {self._seed}'] = self._fitted[row.fit]
    return self._fitted[row.fit]

  def table(self):
    """Fits and evaluates all rows; serves, plans and goes on with the main."""
    config = self._config
    for row in rows(config):
      self.align(row)
      if {'evaluate', 'serve', 'report'}.intersection(config.stages):
        evaluated = self.evaluate(row)
        self.results.append(report.Result.load(evaluated.directory))
      if row.name != config.main_alignment:
        continue
      if 'serve' in config.stages and config.serve.policies:
        self._serve(row, evaluated)
      source = self._embedded[row.old].directory
      if 'plan' in config.stages and (source / 'backfill').exists():
        self._plan(row)
      if 'sequence' in config.stages and config.sequence.newer:
        self._sequence(row)

  def evaluate(self, row) -> artifact.Artifact:
    """Sweeps a row, and its references unless another row has the same."""
    config, embedded = self._config, self._arrays(row)
    references = self._make(
      'evaluate',
      f'references/{row.old}-{row.new}/seed{self._encoder_seed}',
      evaluate.sweep_references,
      embedded={name: x for name, x in embedded.items() if name != _SIDE},
      old=row.old,
      new=row.new,
      distance=config.evaluate.distance,
    )
    return self._make(
      'evaluate',
      f'{row.folder}/seed{self._seed}',
      evaluate.evaluate,
      code_of=[row.method.module],
      name=row.name,
      definition=row.definition,
      fitted=self.align(row),
      references=references,
      embedded=embedded,
      old=row.old,
      new=row.new,
      fuse=row.fuse,
      names=list(config.evaluate.policies),
      steps=config.evaluate.steps,
      distance=config.evaluate.distance,
      seed=self._seed,
    )

  def _serve(self, row, evaluated):
    config = self._config
    made = self._make(
      'serve',
      f'seed{self._seed}',
      serve.serve,
      evaluated=evaluated,
      embedded=self._arrays(row),
      new=row.new,
      policies=list(config.serve.policies),
      kind=config.serve.index,
      k=config.serve.k,
      steps=config.evaluate.steps,
      distance=config.evaluate.distance,
      seed=self._seed,
    )
    self.tables['served'] = made.directory / 'served.csv'

  def _plan(self, row):
    self._make(
      'plan',
      f'seed{self._seed}',
      plan.plan,
      definition=row.definition,
      fitted=self.align(row),
      embedded=self._arrays(row),
      old=row.old,
      new=row.new,
      names=list(self._config.evaluate.policies),
      seed=self._seed,
    )

  def _sequence(self, row):
    config, newer = self._config, self._config.sequence.newer
    second = dataclasses.replace(
      row, name=f'{row.name}, then', old=row.new, new=newer
    )
    direct = dataclasses.replace(row, name=f'{row.name}, at once', new=newer)
    made = self._make(
      'sequence',
      f'seed{self._seed}',
      sequence.sequence,
      definition=row.definition,
      first=self.align(row),
      second=self.align(second),
      direct=self.align(direct),
      embedded=self._arrays(row, newer),
      encoders=[row.old, row.new, newer],
      names=list(config.sequence.policies),
      switches=list(config.sequence.switches),
      steps=config.evaluate.steps,
      distance=config.evaluate.distance,
      seed=self._seed,
    )
    self.tables['sequence'] = made.directory / 'sequence.csv'
