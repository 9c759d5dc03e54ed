"""The stages of one seed, which fill the table's rows.

Here the config's keys become the plain arguments of the stages.
"""

import dataclasses

from ml_collections import ConfigDict

from fastfill_jax import models, parallel, report
from fastfill_jax.data import dataset
from fastfill_jax.stages import (
  align,
  embed,
  encode,
  evaluate,
  external,
  plan,
  request,
  sequence,
  serve,
)
from fastfill_jax.storage import artifact, splits


class Seed:
  """The stages of one seed, and what they made.

  Attributes:
    results: Of every row that was evaluated.
    trained: What was trained, by its name in the report.
    embedded: Where the arrays of each encoder lie.
    fitted: The rows' maps, by `Row.fit`.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: artifact.Workdir,
    how: parallel.How,
    data: dataset.Data | None,
    seed: int,
  ):
    """Of a run; data as `request.describe` gives it."""
    self.config, self.workdir, self.how = config, workdir, how
    self.data, self.seed = data, seed
    self.results: list[report.Result] = []
    self.trained: dict[str, artifact.Artifact] = {}
    self.embedded: dict[str, artifact.Artifact] = {}
    self.fitted: dict[str, artifact.Artifact] = {}
    shared = config.share_encoders or config.embed.source
    self._encoder_seed = config.seeds[0] if shared else seed
    self._rows = request.rows(config)
    self._swept = {
      'steps': config.evaluate.steps,
      'distance': config.evaluate.distance,
      'seed': seed,
    }

  def _make(self, stage, name, build, /, **given):
    return self.workdir.make(stage, name, build, self.how, **given)

  def encode(self, names) -> dict[str, artifact.Artifact]:
    """Trains encoders, and those they read."""
    made, seed = {}, self._encoder_seed
    encoders = self.config.encoders.to_dict()
    for name in request.in_order(encoders, names):
      recipe = encoders[name]
      made[name] = self._make(
        'encode',
        f'{name}/seed{seed}',
        encode.encode,
        code_of=[models.module_of(recipe['encoder']['name'])],
        recipe=recipe,
        data=dataset.of_training(self.data),
        seed=seed,
        others={other: made[other] for other in request.others(recipe)},
      )
      self.trained[f'{name}/seed {seed}'] = made[name]
    return made

  def embed(self):
    """Embeds by all encoders that are needed, or takes what there is."""
    config, seed = self.config, self._encoder_seed
    if config.embed.source:
      self._take()
      return
    names = request.needed(config)
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
    for row in self._rows:
      try:
        align.check_reads(row.method, pairs, self.embedded['new'])
      except ValueError as error:
        raise ValueError(f'alignments[{row.name!r}]: {error}') from error

  def _arrays(self, row, *more):
    """What a row's stages are given of the embeddings."""
    names = {row.old, row.new, *more, 'columns'}
    names |= {request.SIDE} & set(row.method.reads)
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
    for row in self._rows:
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
      embedded={k: v for k, v in embedded.items() if k != request.SIDE},
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
      fuse=row.fuse,
      names=list(self.config.evaluate.policies),
      distance=self._swept['distance'],
      seed=self.seed,
      **self._of(row),
    )

  def _sequence(self, row):
    config = self.config.sequence

    def fitted(then, **encoders):
      one = dataclasses.replace(row, name=f'{row.name}, {then}', **encoders)
      return self.align(one)

    self._make(
      'sequence',
      f'seed{self.seed}',
      sequence.sequence,
      definition=row.definition,
      first=self.align(row),
      second=fitted('then', old=row.new, new=config.newer),
      direct=fitted('at once', new=config.newer),
      embedded=self._arrays(row, config.newer),
      encoders=[row.old, row.new, config.newer],
      names=list(config.policies),
      switches=list(config.switches),
      **self._swept,
    )
