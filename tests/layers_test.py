"""The floors: a module imports only from lower ones, and is on one of them."""

import ast
import pathlib

_PACKAGE = pathlib.Path(__file__).parent.parent / 'fastfill_jax'
_FLOORS = (
  {'parallel', 'choices', 'losses', 'metrics'},
  {'policies', 'models', 'storage', 'curve', 'index'},
  {'data', 'training', 'report', 'stores'},
  {'methods'},
  {'stages', 'forecast', 'backfill'},
  {'pipeline', 'main', 'cost'},
)
# Modules of one floor may be used by those that come after them.
_FLOOR_OF = {name: i for i, names in enumerate(_FLOORS) for name in names}
_READ_THE_CONFIG = {
  'stages/request.py',
  'stages/seed.py',
  'stages/counting.py',
  'pipeline.py',
  'main.py',
  'cost.py',
}
_DEVICE_WORDS = {'pmap', 'Mesh', 'shard_map', 'local_devices', 'devices'}


def _modules():
  return sorted(_PACKAGE.rglob('*.py'))


def _top(path):
  return path.relative_to(_PACKAGE).parts[0].removesuffix('.py')


def _imports(path):
  """Names of the package's top modules that a file imports, and where."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == 'fastfill_jax':
      for alias in node.names:
        yield alias.name
    elif isinstance(node, ast.ImportFrom) and node.module:
      if node.module.startswith('fastfill_jax.'):
        yield node.module.split('.')[1]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('fastfill_jax.'):
          yield alias.name.split('.')[1]


def test_imports_only_from_lower_floors():
  assert not list(_imports(_PACKAGE / '__init__.py'))
  for path in set(_modules()) - {_PACKAGE / '__init__.py'}:
    top = _top(path)
    assert top in _FLOOR_OF, f'{top} is on no floor'
    for name in _imports(path):
      assert _FLOOR_OF[name] <= _FLOOR_OF[top], f'{path} imports {name}'


def test_no_two_modules_of_a_floor_import_each_other():
  edges = {}
  for path in _modules():
    top = _top(path)
    edges.setdefault(top, set()).update(set(_imports(path)) - {top})

  def reached(name, seen=()):
    assert name not in seen, f'a circle of imports: {(*seen, name)}'
    for other in edges.get(name, ()):
      reached(other, (*seen, name))

  for name in edges:
    reached(name)


def test_only_parallel_names_devices():
  for path in _modules():
    if _top(path) == 'parallel':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        assert not (node.value.id == 'jax' and node.attr in _DEVICE_WORDS), (
          f'{path.name}:{node.lineno} says jax.{node.attr}'
        )


def test_only_the_highest_read_the_config():
  readers = {
    str(path.relative_to(_PACKAGE))
    for path in _modules()
    if 'ml_collections' in path.read_text()
  }
  assert readers <= _READ_THE_CONFIG
