"""Which files of the package a result rests on, and whether they changed.

A module rests on itself and on all it imports, but for the members of the
registries: a table that names every encoder or method would make each result
rest on all of them. Who picks a member names its module.
"""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Iterable

_ROOT = pathlib.Path(__file__).parent.parent
_PACKAGE = _ROOT.name
# Packages whose face is a table of members.
_REGISTRIES = ('methods', 'models')


def digests(modules: Iterable[str]) -> dict[str, str]:
  """A hash of every file of the package that some modules rest on, by path."""
  found, todo = set(), {path for name in modules for path in _paths(name)}
  while todo:
    found |= todo
    todo = {other for path in todo for other in _imports(path)} - found
  return {str(path.relative_to(_ROOT)): _hash(path) for path in sorted(found)}


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
  """The files that differ, that came, and that are gone."""
  paths = sorted(before.keys() | now.keys())
  return [path for path in paths if before.get(path) != now.get(path)]


def package_digest(package: pathlib.Path = _ROOT) -> bytes:
  """A hash of a package's code: a version's number can stay behind it."""
  digest = hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    digest.update(str(path.relative_to(package)).encode())
    digest.update(path.read_bytes())
  return digest.digest()


def _paths(name: str) -> list[pathlib.Path]:
  """The file of a module, or none if it is not of the package."""
  package, *parts = name.split('.')
  if package != _PACKAGE:
    return []
  base = _ROOT.joinpath(*parts)
  if parts and base.with_suffix('.py').exists():
    return [base.with_suffix('.py')]
  if len(parts) == 1 and parts[0] in _REGISTRIES:
    return []
  return [base / '__init__.py'] if (base / '__init__.py').exists() else []


@functools.cache
def _imports(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names.add(node.module)
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return tuple(found for name in sorted(names) for found in _paths(name))


@functools.cache
def _hash(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
