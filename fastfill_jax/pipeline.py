"""The stages in their order, and what is checked before the first of them."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

import fastfill_jax
from fastfill_jax import choices, curve, parallel, report
from fastfill_jax.data import dataset, transforms
from fastfill_jax.stages import embed, encode, evaluate, sequence, serve
from fastfill_jax.stages import seed as stage_seed
from fastfill_jax.storage import artifact, code
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


def split_names(config: ConfigDict):
  """Takes a,b from the command line as (a, b), in the tuples of names."""

  def split(names):
    return tuple(name for part in names for name in part.split(','))

  config.stages = split(config.stages)
  for part in (config.evaluate, config.serve, config.sequence):
    part.policies = split(part.policies)


def check(config: ConfigDict):
  """Raises a ValueError for what can be known to be wrong before any work."""
  if not config.stages:
    raise ValueError(f'stages=(): choose one or more of {STAGES}.')
  for stage in config.stages:
    choices.check('stage', stage, STAGES)
  seeds = list(config.seeds)
  if not seeds or not all(isinstance(x, int) and x >= 0 for x in seeds):
    raise ValueError(f'seeds={config.seeds}: one or more numbers >= 0.')
  _how(config, parallel.Preemption())
  choices.check('run.sweep_backend', config.run.sweep_backend, curve.BACKENDS)
  table = stage_seed.rows(config)
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


def _check_encoders(config, table):
  encoders = config.encoders.to_dict()
  for name in stage_seed.needed(config, table):
    choices.check('encoder', name, encoders)
  for name, recipe in encoders.items():
    for other in filter(None, (recipe['teacher'], recipe['start'])):
      choices.check(f'encoder that {name!r} reads', other, encoders)
    encode.check(name, recipe)
    if recipe['teacher']:
      encode.check_teacher(name, recipe, encoders[recipe['teacher']])
  stage_seed.in_order(encoders, encoders)
  share = config.data.validation_fraction
  if not 0 <= share < 1:
    raise ValueError(f'data.validation_fraction={share}: a share in [0, 1).')
  transforms.make_transform(**config.data.train_transform)
  transforms.make_transform(**config.data.eval_transform)
  for row in table:
    old, new = (
      encoders[x]['encoder']['embedding_dim'] for x in (row.old, row.new)
    )
    if row.definition['name'] == 'identity' and old != new:
      raise ValueError(
        f'alignments[{row.name!r}]: the identity needs encoders of one width, '
        f'got embedding_dim={old} ({row.old}) and {new} ({row.new}).'
      )


def _how(config, preemption) -> parallel.How:
  keys = {field.name for field in dataclasses.fields(parallel.How)}
  return parallel.How(
    preemption, **{k: v for k, v in config.run.items() if k in keys}
  )


def claim(config: ConfigDict, workdir: pathlib.Path):
  """Makes the workdir, or makes sure that it is this config's.

  Raises:
    ValueError: If it belongs to another config, or processes differ.
    OSError: If it cannot be written.
  """
  held = config.to_json_best_effort()
  common = config.copy_and_resolve_references()
  common.run.data_dir = ''  # Machines may keep the data in different places.
  digest = hashlib.sha256(common.to_json_best_effort().encode())
  digest.update(code.package_digest())
  parallel.check_same('config or code', digest.digest())
  with parallel.together():
    if parallel.is_main():
      workdir.mkdir(parents=True, exist_ok=True)
      path = workdir / 'config.json'
      name = artifact.read_json(path).get('name', config.name)
      if name != config.name:
        raise ValueError(
          f'{workdir} holds results of the config {name!r}, not of '
          f'{config.name!r}: choose another --workdir.'
        )
      artifact.write_json(path, json.loads(held))


def run(
  config: ConfigDict, path: pathlib.Path, preemption: parallel.Preemption
) -> list[report.Result]:
  """Runs the config's stages for every seed.

  Returns:
    What was evaluated; nothing if the last picked stage is an earlier one.

  Raises:
    ValueError: If a stage that is not picked has no result to go on with.
  """
  how = _how(config, preemption)
  workdir = artifact.Workdir(path, config.stages, config.run.anew)
  data = None if config.embed.source else _describe(config, how)
  seeds = [
    stage_seed.Seed(config, workdir, how, data, seed) for seed in config.seeds
  ]
  for seed in seeds:
    if set(config.stages) == {'encode'}:
      seed.encode(list(config.encoders))
      continue
    seed.embed()
    if set(config.stages) - {'encode', 'embed'}:
      seed.table()
  results = [result for seed in seeds for result in seed.results]
  if workdir.found:
    logging.info(
      'There already: %s.',
      ', '.join(f'{n} of {stage}' for stage, n in workdir.found.items()),
    )
  if 'report' in config.stages and parallel.is_main():
    preemption.raise_if_requested('The run, before its report,')
    _report(config, workdir, results, seeds)
  return results


def _describe(config, how) -> dataset.Data:
  """The data set, and whether it does for all trainings; before the first."""
  data = dataset.describe(config.data.to_dict(), how)
  encoders = config.encoders.to_dict()
  names = stage_seed.needed(config, stage_seed.rows(config))
  for name in stage_seed.in_order(encoders, names):
    encode.check_data(data, encoders[name], how)
  source = dataset.open_split(data, data['train_split'], how)
  size = len(dataset.split_rows(data, source)[0])
  recipe = config.align.to_dict()
  optim.from_recipe(recipe, optim.num_steps(recipe, size))
  return data


def _report(config, workdir, results, seeds):
  training = {
    name: path
    for seed in seeds
    for name, result in seed.trained.items()
    for path in result.directory.glob('logs/*/metrics.jsonl')
  }
  tables = {'served': [], 'sequence': []}
  for name, held in tables.items():
    paths = [x.directory / f'{name}.csv' for x in workdir.results.values()]
    held += [pd.read_csv(path) for path in paths if path.exists()]
    if held:
      pd.concat(held).to_csv(workdir.path / f'{name}.csv', index=False)
  report.write(
    workdir.path,
    results,
    title=f'Backfilling {config.name}',
    settings=json.loads(config.to_json_best_effort()),
    versions=versions(),
    published=config.published.to_dict(),
    training=training,
    main=config.main_alignment,
    stale=workdir.stale,
    sequence=tables['sequence'],
  )
  logging.info('The report is %s.', workdir.path / 'report.md')


def versions() -> dict[str, str]:
  """What a run was made with: packages, Python, devices, commit, command."""
  git = subprocess.run(
    ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  packages = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'scann')
  return {
    'fastfill_jax': fastfill_jax.__version__,
    'commit': git.stdout.strip() or 'unknown',
    'python': platform.python_version(),
    'devices': parallel.describe(),
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'command': shlex.join(['python', '-m', 'fastfill_jax.main', *sys.argv[1:]]),
    **{name: _version(name) for name in packages},
  }


def _version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'
