"""The rows of a table, and the stages of one seed that fill them.

Here the config's keys become the plain arguments of the stages.
"""

import dataclasses
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from fastfill_jax import choices, methods, models, report, running
from fastfill_jax.data import dataset
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

  @property
  def fit(self) -> str:
    """What its fitted map depends on: rows may share one."""
    return json.dumps([self.definition, self.old, self.new], sort_keys=True)


def rows(config: ConfigDict) -> list[Row]:
  """The rows of the table.

  Raises:
    ValueError: If a method, a field or a value is unknown, naming the row.
  """
  found = []
  for name, fields in config.alignments.to_dict().items():
    old, new = fields.pop('old', 'old'), fields.pop('new', 'new')
    fuse = float(fields.pop('fuse', 0.0))
    method = fields.pop('method', None)
    try:
      methods.make(method, **fields)
      if not 0 <= fuse <= 1:
        raise ValueError(f'fuse={fuse} is a share in [0, 1].')
    except ValueError as error:
      raise ValueError(f'alignments[{name!r}]: {error}') from error
    found.append(Row(name, {'name': method} | fields, old, new, fuse))
  choices.check('main_alignment', config.main_alignment, config.alignments)
  return found


def needed(config: ConfigDict, table: list[Row]) -> list[str]:
  """The encoders that the rows and the sequence read."""
  names = [x for row in table for x in (row.old, row.new)]
  made = [methods.make(**row.definition) for row in table]
  names += [_SIDE for method in made if _SIDE in method.reads]
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
  """The stages of one seed: the config's keys become plain arguments."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: artifact.Workdir,
    how: running.How,
    data: dataset.Data | None,
    seed: int,
    logs: dict[str, artifact.Artifact],
  ):
    """Takes the description of the data, None for embeddings that are there.

    What is trained is put in `logs`.
    """
    self._config = config
    self._workdir = workdir
    self._how = how
    self._data = data
    self._seed = seed
    self._logs = logs
    self._embedded: dict[str, artifact.Artifact] = {}
    self._fitted: dict[str, tuple[str, artifact.Artifact]] = {}

  def encode(self, names) -> dict[str, artifact.Artifact]:
    """Trains encoders, and those they read."""
    config, made = self._config, {}
    seed = config.seeds[0] if config.share_encoders else self._seed
    encoders = config.encoders.to_dict()
    for name in in_order(encoders, names):
      recipe = encoders[name]
      others = {x for x in (recipe['teacher'], recipe['start']) if x}
      made[name] = self._workdir.make(
        'encode',
        f'{name}/seed{seed}',
        encode.encode,
        self._how,
        code_of=[models.module_of(recipe['encoder']['name'])],
        recipe=recipe,
        data=dataset.of_training(self._data),
        seed=seed,
        others={other: made[other] for other in sorted(others)},
      )
      self._logs[f'{name}/seed {seed}'] = made[name]
    return made

  def embed(self):
    """Embeds by all encoders that are needed, or takes what there is."""
    config = self._config
    if config.embed.source:
      source = config.embed.source
      self._embedded = external.make(
        self._workdir, self._how, source, config.data.held_out
      )
      pairs = splits.Pairs(self._embedded)
      for row in rows(config):
        method = methods.make(**row.definition)
        try:
          align.check_reads(method, pairs, self._embedded['new'])
        except ValueError as error:
          raise ValueError(f'alignments[{row.name!r}]: {error}') from error
      return
    seed = config.seeds[0] if config.share_encoders else self._seed
    encoders = self.encode(needed(config, rows(config)))
    for name in needed(config, rows(config)):
      recipe = config.encoders[name].encoder
      self._embedded[name] = self._workdir.make(
        'embed',
        f'{name}/seed{seed}',
        embed.embed,
        self._how,
        code_of=[models.module_of(recipe.name)],
        name=name,
        encoder=encoders[name],
        data=self._data,
        views=config.embed.views,
        dtype=config.embed.dtype,
        seed=seed,
      )
    self._embedded['columns'] = self._workdir.make(
      'embed', 'columns', embed.columns, self._how, data=self._data
    )

  def _arrays(self, row, *more):
    """What a row's stages are given of the embeddings."""
    names = {row.old, row.new, *more, 'columns'}
    if _SIDE in methods.make(**row.definition).reads:
      names.add(_SIDE)
    return {x: self._embedded[x] for x in sorted(names & set(self._embedded))}

  def align(self, row) -> artifact.Artifact:
    """Fits a row, unless another one has the same map."""
    if row.fit not in self._fitted:
      method = methods.make(**row.definition)
      self._fitted[row.fit] = self._workdir.make(
        'align',
        f'{align.file_name(row.name)}/seed{self._seed}',
        align.align,
        self._how,
        code_of=[method.module],
        definition=row.definition,
        recipe=self._config.align.to_dict(),
        embedded=self._arrays(row),
        old=row.old,
        new=row.new,
        seed=self._seed,
      )
      self._logs[f'{row.name}/seed {self._seed}'] = self._fitted[row.fit]
    return self._fitted[row.fit]

  def table(self, last, tables) -> list[report.Result]:
    """Fits and evaluates all rows; serves, plans and goes on with the main."""
    config, results = self._config, []
    for row in rows(config):
      self.align(row)
      if {'evaluate', 'serve', 'report'}.intersection(config.stages):
        evaluated = self._evaluate(row)
        results.append(report.Result.load(evaluated.directory))
      if row.name != config.main_alignment:
        continue
      if 'serve' in config.stages and config.serve.policies:
        tables['served'].append(self._serve(row, evaluated))
      source = self._embedded[row.old].directory
      if 'plan' in config.stages and (source / 'backfill').exists():
        self._plan(row)
      if 'sequence' in config.stages and config.sequence.newer:
        tables['sequence'].append(self._sequence(row))
    return results

  def _evaluate(self, row) -> artifact.Artifact:
    config, embedded = self._config, self._arrays(row)
    first = config.seeds[0]
    shared = config.share_encoders or config.embed.source
    references = self._workdir.make(
      'evaluate',
      f'references/{row.old}-{row.new}/seed{first if shared else self._seed}',
      evaluate.sweep_references,
      self._how,
      embedded={name: x for name, x in embedded.items() if name != _SIDE},
      old=row.old,
      new=row.new,
      distance=config.evaluate.distance,
    )
    return self._workdir.make(
      'evaluate',
      f'{align.file_name(row.name)}/seed{self._seed}',
      evaluate.evaluate,
      self._how,
      code_of=[methods.make(**row.definition).module],
      name=row.name,
      definition=row.definition,
      fitted=self._fitted[row.fit],
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

  def _serve(self, row, evaluated) -> pathlib.Path:
    config = self._config
    made = self._workdir.make(
      'serve',
      f'seed{self._seed}',
      serve.serve,
      self._how,
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
    return made.directory / 'served.csv'

  def _plan(self, row):
    self._workdir.make(
      'plan',
      f'seed{self._seed}',
      plan.plan,
      self._how,
      definition=row.definition,
      fitted=self._fitted[row.fit],
      embedded=self._arrays(row),
      old=row.old,
      new=row.new,
      names=list(self._config.evaluate.policies),
      seed=self._seed,
    )

  def _sequence(self, row) -> pathlib.Path:
    config = self._config
    newer = config.sequence.newer
    second = dataclasses.replace(
      row, name=f'{row.name}, then', old=row.new, new=newer
    )
    direct = dataclasses.replace(row, name=f'{row.name}, at once', new=newer)
    made = self._workdir.make(
      'sequence',
      f'seed{self._seed}',
      sequence.sequence,
      self._how,
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
    return made.directory / 'sequence.csv'
