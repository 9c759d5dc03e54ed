"""The stages in their order, and what is checked before the first of them."""

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
from fastfill_jax import (
  align,
  artifact,
  data,
  embed,
  encoder,
  evaluate,
  external,
  models,
  parallel,
  plan,
  report,
  serve,
  side_information,
)

# In this order; an earlier one's result is what a later one goes on with.
STAGES = (
  'old',
  'new',
  'side',
  'embed',
  'align',
  'evaluate',
  'serve',
  'plan',
  'report',
)


def split_names(config: ConfigDict):
  """Takes a,b from the command line as (a, b), in the tuples of names."""

  def split(names):
    return tuple(name for part in names for name in part.split(','))

  config.stages = split(config.stages)
  config.evaluate.policies = split(config.evaluate.policies)
  config.serve.policies = split(config.serve.policies)


def check(config: ConfigDict):
  """Raises a ValueError for what can be known to be wrong before any work."""
  unknown = set(config.stages) - set(STAGES)
  if unknown or not config.stages:
    raise ValueError(
      f'stages={config.stages}: choose one or more of {STAGES}'
      + (f'; there is no {sorted(unknown)}.' if unknown else '.')
    )
  if not config.seeds or min(config.seeds) < 0:
    raise ValueError(f'seeds={config.seeds}: one or more numbers >= 0.')
  if not config.embed.source:
    _check_encoders(config)
  parallel.check_batch_size(config.align.batch_size)
  embed.check(config)
  align.check(config)
  evaluate.check(config)
  serve.check(config)
  if config.main_alignment not in config.alignments:
    raise ValueError(
      f'main_alignment={config.main_alignment!r} is none of '
      f'{tuple(config.alignments)}.'
    )


def _check_encoders(config):
  for which in ('old', 'new', *(('side',) if config.side.enabled else ())):
    models.make_encoder(**config[which].encoder)
    parallel.check_batch_size(config[which].batch_size)
  for which in ('old', 'new'):
    encoder.make_head(1, **config[which].head)
    if not 0 < config[which].minority_fraction <= 1:
      raise ValueError(
        f'{which}.minority_fraction={config[which].minority_fraction}: a share '
        'in (0, 1].'
      )
  if not 0 <= config.data.validation_fraction < 1:
    raise ValueError(
      f'data.validation_fraction={config.data.validation_fraction}: a share in '
      '[0, 1).'
    )
  data.make_transform(**config.data.train_transform)
  data.make_transform(**config.data.eval_transform)


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
  digest.update(code_digest(pathlib.Path(fastfill_jax.__file__).parent))
  parallel.check_same('config or code', digest.digest())
  error = None
  if parallel.is_main():
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      path = workdir / 'config.json'
      if path.exists():
        name = json.loads(path.read_text())['name']
        if name != config.name:
          raise ValueError(
            f'{workdir} holds results of the config {name!r}, not of '
            f'{config.name!r}: choose another --workdir.'
          )
      artifact.write_text(path, json.dumps(json.loads(held), indent=2) + '\n')
    except (OSError, ValueError) as failure:
      error = failure
  parallel.raise_together(error)


def code_digest(package: pathlib.Path) -> bytes:
  """A hash of a package's code: a version's number can stay behind it."""
  digest = hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(str(path.relative_to(package)).encode())
    digest.update(path.read_bytes())
  return digest.digest()


def run(
  config: ConfigDict, workdir: pathlib.Path, preemption: parallel.Preemption
) -> list[report.Result]:
  """Runs the config's stages for every seed.

  Returns:
    What was evaluated; nothing if the last picked stage is an earlier one.

  Raises:
    ValueError: If a stage that is not picked has no result to go on with.
  """
  last = max(STAGES.index(stage) for stage in config.stages)
  results, served, logs = [], [], {}
  for seed in config.seeds:
    if config.embed.source:
      embedded = external.make(config, workdir)
    else:
      first = config.seeds[0] if config.share_encoders else seed
      embedded = _encode(config, workdir, first, last, preemption, logs)
    if last < STAGES.index('align'):
      continue
    for name in config.alignments:
      preemption.raise_if_requested(f'The run, before {name!r},')
      fitted = align.make(config, workdir, name, embedded, seed, preemption)
      logs[f'{name}/seed {seed}'] = fitted
      if {'evaluate', 'serve', 'report'}.intersection(config.stages):
        evaluated = evaluate.make(config, workdir, name, embedded, fitted, seed)
        results.append(report.Result.load(evaluated.directory))
      if name != config.main_alignment:
        continue
      if 'serve' in config.stages and config.serve.policies:
        served.append(serve.make(config, workdir, embedded, evaluated, seed))
      if 'plan' in config.stages and (embedded.directory / 'backfill').exists():
        plan.make(config, workdir, embedded, fitted, seed)
  if 'report' in config.stages and parallel.is_main():
    _report(config, workdir, results, logs)
    if served:
      table = pd.concat([serve.load(one) for one in served])
      table.to_csv(workdir / 'served.csv', index=False)
  return results


def _encode(config, workdir, seed, last, preemption, logs):
  """Trains the encoders and embeds by them, as far as `last` goes."""
  encoders = {}
  for which in ('old', 'new', *(('side',) if config.side.enabled else ())):
    if which in config.stages or last >= STAGES.index('embed'):
      make = side_information.make if which == 'side' else encoder.make
      encoders[which] = make(config, workdir, which, seed, preemption)
      logs[f'{which}/seed {seed}'] = encoders[which]
  if last < STAGES.index('embed'):
    return None
  return embed.make(config, workdir, encoders, seed, preemption)


def _report(config, workdir, results, logs):
  training = {}
  for name, result in logs.items():
    paths = sorted(result.directory.glob('logs/*/metrics.jsonl'))
    if paths:
      training[name] = paths[0]
  report.write(
    workdir,
    results,
    title=f'Backfilling {config.name}',
    settings=json.loads(config.to_json_best_effort()),
    versions=versions(),
    published=config.published.to_dict(),
    training=training,
    main=config.main_alignment,
  )
  logging.info('The report is %s.', workdir / 'report.md')


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
    'command': shlex.join(sys.argv),
    **{name: _version(name) for name in packages},
  }


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'
