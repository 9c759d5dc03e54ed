"""The stages of all seeds, and their report."""

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
import rich
from absl import logging
from ml_collections import ConfigDict

import fastfill_jax
from fastfill_jax import parallel, report
from fastfill_jax.stages import request, seed
from fastfill_jax.storage import artifact, code


def claim(config: ConfigDict, workdir: pathlib.Path):
  """Checks a config, and makes the workdir or makes sure that it is its own.

  Raises:
    ValueError: If a value is wrong, the workdir belongs to another config, or
      processes differ.
    OSError: If it cannot be written.
  """
  request.check(config)
  config.run.label_dir = config.run.label_dir or str(workdir / 'labels')
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
  """Runs the config's stages for every seed, and prints the table.

  Returns:
    What was evaluated; nothing if the last picked stage is an earlier one.

  Raises:
    ValueError: If a stage that is not picked has no result to go on with.
  """
  how = request.how(config, preemption)
  workdir = artifact.Workdir(path, config.stages, config.run.anew)
  data = request.describe(config, how)
  seeds = [seed.Seed(config, workdir, how, data, x) for x in config.seeds]
  for one in seeds:
    if set(config.stages) == {'encode'}:
      one.encode(list(config.encoders))
      continue
    one.embed()
    if set(config.stages) - {'encode', 'embed'}:
      one.table()
  results = [result for one in seeds for result in one.results]
  if workdir.found:
    found = (f'{n} of {stage}' for stage, n in workdir.found.items())
    logging.info('There already: %s.', ', '.join(found))
  if 'report' in config.stages and parallel.is_main():
    preemption.raise_if_requested('The run, before its report,')
    _report(config, workdir, results, seeds)
  if results and parallel.is_main():
    rich.print(report.table(results))
    logging.info('Report, figures and tables: %s', path)
  return results


def _report(config, workdir, results, seeds):
  training = {
    name: path
    for one in seeds
    for name, result in one.trained.items()
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
