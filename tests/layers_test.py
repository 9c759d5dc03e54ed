"""The floors: a module imports only from lower ones, and is on one of them."""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parent.parent / 'fastfill_jax'
_FLOORS = (
  {'parallel', 'losses', 'metrics', 'policies', 'closed_form', 'hardware'},
  {
    'models',
    'data',
    'embeddings',
    'checkpoint',
    'optim',
    'progress',
    'report',
    'artifact',
    'flops',
    'pairs',
  },
  {'curve', 'index', 'training'},
  {
    'dataset',
    'encoder',
    'side_information',
    'embed',
    'external',
    'align',
    'gallery',
    'evaluate',
    'serve',
    'plan',
    'forecast',
  },
  {'pipeline', 'main', 'workload', 'cost'},
)
# Modules of one floor may be used by those that come after them.
_FLOOR_OF = {name: i for i, names in enumerate(_FLOORS) for name in names}
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


@pytest.mark.parametrize('path', _modules(), ids=lambda path: path.stem)
def test_imports_only_from_lower_floors(path):
  top = _top(path)
  if top == '__init__':
    assert not list(_imports(path))
    return
  assert top in _FLOOR_OF, f'{top} is on no floor'
  for name in _imports(path):
    assert _FLOOR_OF[name] <= _FLOOR_OF[top], f'{top} imports {name}'


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


@pytest.mark.parametrize('path', _modules(), ids=lambda path: path.stem)
def test_only_parallel_names_devices(path):
  if _top(path) in ('parallel', 'hardware'):
    return
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      assert not (node.value.id == 'jax' and node.attr in _DEVICE_WORDS), (
        f'{path.name}:{node.lineno} says jax.{node.attr}'
      )


def test_only_stages_read_the_config():
  for path in _modules():
    if _FLOOR_OF.get(_top(path), 9) < 3:
      assert 'ml_collections' not in path.read_text(), path.name
