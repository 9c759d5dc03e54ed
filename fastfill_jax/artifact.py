"""Results on disk, named by everything they depend on.

An artifact is a folder `WORKDIR/NAME-HASH`; the hash is that of its settings,
which hold the hashes of its inputs. So a result that is there is never made
again, a changed setting makes a new folder for what depends on it and for
nothing else, and changing the setting back finds the old one.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.serialization
import flax.traverse_util
from absl import logging

from fastfill_jax import parallel


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A folder with a result, or a place for one.

  Attributes:
    name: What it is, as 'new/seed0'.
    digest: Of its settings, 8 hexadecimal digits.
    directory: WORKDIR/name-digest.
  """

  name: str
  digest: str
  directory: pathlib.Path

  @property
  def done(self) -> bool:
    return (self.directory / 'done').exists()


def locate(workdir, name: str, settings: Mapping[str, Any]) -> Artifact:
  """The artifact of these settings, there or not; writes nothing."""
  text = json.dumps(settings, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return Artifact(name, digest, pathlib.Path(workdir) / f'{name}-{digest}')


def make(
  workdir,
  name: str,
  settings: Mapping[str, Any],
  build: Callable[[pathlib.Path], None],
  allowed: bool = True,
) -> Artifact:
  """The artifact of these settings, built unless it is there.

  Args:
    workdir: The run's folder.
    name: What it is, as 'new/seed0'.
    settings: All it depends on, as JSON types; inputs by their digest.
    build: Called with the folder; what it left there before a kill is there
      again, so that it can resume.
    allowed: False if the result must be there.

  Returns:
    The finished artifact.

  Raises:
    ValueError: If it is not there and may not be built.
  """
  result = locate(workdir, name, settings)
  if result.done:
    logging.info('%s: done before (%s).', name, result.directory)
    return result
  if not allowed:
    stage = name.split('/', maxsplit=1)[0]
    raise ValueError(
      f'{name} of these settings is not in {workdir}; add the stage {stage!r} '
      'to --config.stages.'
    )
  logging.info('%s: %s%s', name, result.directory, _news(result, settings))
  result.directory.mkdir(parents=True, exist_ok=True)
  if parallel.is_main():
    write_text(
      result.directory / 'settings.json',
      json.dumps(settings, indent=2, sort_keys=True),
    )
  build(result.directory)
  parallel.barrier(f'{name} {result.digest}')
  if parallel.is_main():
    (result.directory / 'done').touch()
  parallel.barrier(f'{name} {result.digest} done')
  return result


def _news(result: Artifact, settings: Mapping[str, Any]) -> str:
  """Says what changed against the nearest finished artifact of the name."""
  mine = _flat(settings)
  changes = []
  for path in sorted(
    result.directory.parent.glob(f'{result.directory.name[:-8]}*')
  ):
    if (path / 'done').exists() and path != result.directory:
      theirs = _flat(json.loads((path / 'settings.json').read_text()))
      changes.append(
        [
          f'{key}: {theirs.get(key, "-")} -> {mine.get(key, "-")}'
          for key in sorted(mine.keys() | theirs.keys())
          if mine.get(key, '-') != theirs.get(key, '-')
        ]
      )
  if not changes:
    return ''
  return '; made anew, for ' + ', '.join(min(changes, key=len))


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
  flat = flax.traverse_util.flatten_dict(dict(settings), sep='.')
  return {key: json.dumps(value) for key, value in flat.items()}


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
