"""Results on disk, named by exactly what they were given.

A result is a folder `WORKDIR/NAME-DIGEST`. A stage is a plain function
`build(directory, how, **given)`; the digest is that of `given`, in which an
input that is itself a result counts by its own digest. So a result that is
there is not made again, a changed setting makes anew what depends on it and
nothing else, and what a stage is not given it cannot depend on. `how` is how
to go about it, and changes nothing.

The code that made a result is kept beside it, file by file. A result of other
code is used, and named as such, until it is asked to be made anew.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
from absl import logging

from fastfill_jax import parallel
from fastfill_jax.storage import code


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A finished result.

  Attributes:
    name: What it is, as 'align/ridge/seed0'.
    digest: Of what it was given, 8 hexadecimal digits.
    directory: WORKDIR/name-digest.
    made: Of what it was given and of the code of all that led to it.
  """

  name: str
  digest: str
  directory: pathlib.Path
  made: str


@dataclasses.dataclass
class Workdir:
  """A run's folder of results.

  Attributes:
    path: The folder.
    stages: Stages that may make results; the others' have to be there.
    anew: Whether results of other code are made anew.
    results: All that were made or found, by name.
    found: How many of them were there already, by stage.
    stale: Files that changed since, by the name of a result that is used.
  """

  path: pathlib.Path
  stages: Sequence[str]
  anew: bool = False
  results: dict[str, Artifact] = dataclasses.field(default_factory=dict)
  found: Counter[str] = dataclasses.field(default_factory=Counter)
  stale: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  def make(
    self,
    stage: str,
    name: str,
    build: Callable[..., None],
    how: parallel.How,
    /,
    code_of: Sequence[str] = (),
    **given: Any,
  ) -> Artifact:
    """The result of these inputs and settings, built unless it is there.

    What `build` left in the folder before a kill is there again. `given` are
    artifacts, what JSON holds, and dicts and lists of these; `code_of` names
    modules whose code the result rests on, beside build's own.

    Raises:
      ValueError: If it is not there and its stage was not picked.
    """
    settings = _settled(given)
    directory = self.path / f'{stage}/{name}-{_digest(settings)}'
    name = f'{stage}/{name}'
    files = code.digests([build.__module__, *code_of])
    read = [x for x in jax.tree.leaves(given) if isinstance(x, Artifact)]
    inputs = {x.name: x.made for x in read}
    held = read_json(directory / 'made.json')
    fresh = held.get('inputs') == inputs and not (
      self.anew and stage in self.stages and held['code'] != files
    )
    if (directory / 'done').exists() and fresh:
      self.found[stage] += 1
      return self._finished(name, directory, files)
    if stage not in self.stages:
      raise ValueError(
        f'{name} of these settings is not in {self.path}; add the stage '
        f'{stage!r} to --config.stages.'
      )
    how.preemption.raise_if_requested(f'The run, before {name},')
    logging.info('%s: %s%s', name, directory, self._news(directory, settings))
    if parallel.is_main() and not fresh:
      shutil.rmtree(directory, ignore_errors=True)
      directory.mkdir(parents=True)
      write_json(directory / 'settings.json', settings)
      write_json(directory / 'made.json', {'code': files, 'inputs': inputs})
    parallel.barrier(f'{directory} begun')
    build(directory, how, **given)
    parallel.barrier(f'{directory} built')
    if parallel.is_main():
      (directory / 'done').touch()
    parallel.barrier(f'{directory} done')
    return self._finished(name, directory, files)

  def _finished(self, name, directory, files) -> Artifact:
    """The result there, named if other code made it or began it."""
    held = read_json(directory / 'made.json')
    changed = code.changed(held['code'], files)
    if changed and name not in self.stale:
      self.stale[name] = changed
      logging.warning(
        '%s is of other code (changed since: %s); --config.run.anew=True makes '
        'it again.',
        *(name, ', '.join(changed)),
      )
    digest = directory.name[-8:]
    made = _digest([digest, held['code'], held['inputs']])
    self.results[name] = Artifact(name, digest, directory, made)
    return self.results[name]

  def _news(self, directory: pathlib.Path, settings) -> str:
    """Says what changed against the nearest finished result of the name."""
    mine, changes = _flat(settings), []
    for path in sorted(directory.parent.glob(f'{directory.name[:-8]}*/done')):
      theirs = _flat(read_json(path.parent / 'settings.json'))
      changes.append(
        [
          f'{key}: {theirs.get(key, "-")} -> {mine.get(key, "-")}'
          for key in sorted(mine.keys() | theirs.keys())
          if mine.get(key) != theirs.get(key)
        ]
      )
    found = [', '.join(x) for x in sorted(changes, key=len) if x]
    return f'; made anew, for {found[0]}' if found else ''


def _settled(given: Any) -> Any:
  """What JSON can hold of a stage's inputs; a result is its digest."""
  return jax.tree.map(
    lambda x: x.digest if isinstance(x, Artifact) else x, given
  )


def _digest(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def _flat(settings: dict[str, Any]) -> dict[str, str]:
  flat = flax.traverse_util.flatten_dict(settings, sep='.')
  return {key: json.dumps(value) for key, value in flat.items()}


def read_json(path: pathlib.Path) -> Any:
  """What `write_json` wrote; an empty dict if nothing did."""
  return json.loads(path.read_text('utf-8')) if path.exists() else {}


def write_json(path: pathlib.Path, value: Any):
  """Writes a value as JSON, sorted, whole or not at all."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def write_text(path: pathlib.Path, text: str):
  """Writes a file whole or not at all, so that a kill leaves no half."""
  part = path.with_name(path.name + '.part')
  part.write_text(text, 'utf-8')
  part.replace(path)


def save_variables(path: pathlib.Path, variables: Any):
  """Writes a tree of arrays as one msgpack file."""
  if parallel.is_main():
    partial = path.with_suffix('.partial')
    partial.write_bytes(flax.serialization.to_bytes(variables))
    partial.replace(path)


def load_variables(path: pathlib.Path) -> Any:
  """The tree of NumPy arrays that `save_variables` wrote."""
  return flax.serialization.msgpack_restore(path.read_bytes())
