"""Results by what they were given, and by the code that made them."""

import json

import numpy as np
import pytest

from fastfill_jax import parallel
from fastfill_jax.storage import artifact, code


class _Preemption:
  asked = False

  def raise_if_requested(self, where):
    if self.asked:
      raise parallel.Preempted(where)


_HOW = parallel.How(_Preemption())


def _writer(text):
  return lambda directory, how, **given: (directory / 'text').write_text(text)


def _make(workdir, text='', name='seed0', **given):
  return workdir.make('new', name, _writer(text), _HOW, **given)


def _text(made):
  return (made.directory / 'text').read_text()


def test_a_result_that_is_there_is_not_made_again(tmp_path):
  workdir = artifact.Workdir(tmp_path, ['new'])
  first = _make(workdir, 'one', width=3, sizes=(1, 2))
  assert workdir.found == {}
  again = _make(workdir, 'two', width=3, sizes=[1, 2])
  assert first == again
  assert workdir.found == {'new': 1}
  assert _text(again) == 'one'
  held = json.loads((again.directory / 'settings.json').read_text())
  assert held == {'width': 3, 'sizes': [1, 2]}


def test_a_changed_setting_makes_another_and_says_so(tmp_path, log):
  workdir = artifact.Workdir(tmp_path, ['new'])
  _make(workdir, 'one', a={'b': 1})
  log.clear()
  assert _text(_make(workdir, 'two', a={'b': 2})) == 'two'
  assert 'made anew, for a.b: 1 -> 2' in log.text
  assert _text(_make(workdir, 'three', a={'b': 1})) == 'one'


def test_an_input_counts_by_what_it_was_given(tmp_path):
  workdir = artifact.Workdir(tmp_path, ['new'])
  inputs = [_make(workdir, name='input', width=i) for i in (1, 2)]
  made = [_make(workdir, 'x', embedded={'old': one}) for one in inputs]
  assert made[0].digest != made[1].digest
  assert _make(workdir, 'y', embedded={'old': inputs[0]}) == made[0]


def test_how_changes_nothing(tmp_path):
  workdir = artifact.Workdir(tmp_path, ['new'])
  seen = []

  def build(directory, how):
    seen.append(how)

  hows = [parallel.How(_Preemption(), num_workers=i) for i in (0, 2)]
  for how in hows:
    workdir.make('new', 'seed0', build, how)
  assert seen == hows[:1]


def test_a_stop_is_obeyed_before_a_result_is_begun(tmp_path):
  workdir = artifact.Workdir(tmp_path, ['new'])
  made = _make(workdir, name='there')
  asked = _Preemption()
  asked.asked = True
  how = parallel.How(asked)
  assert workdir.make('new', 'there', _writer(''), how) == made
  with pytest.raises(parallel.Preempted, match='before new/other'):
    workdir.make('new', 'other', _writer(''), how)
  assert not list(tmp_path.glob('new/other*'))


def test_what_may_not_be_built_is_an_error(tmp_path):
  workdir = artifact.Workdir(tmp_path, ['old'])
  with pytest.raises(ValueError, match=r"add the stage 'new'"):
    _make(workdir)
  assert not list(tmp_path.iterdir())


def test_variables_round_trip(tmp_path):
  tree = {'a': {'b': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'c': {}}
  artifact.save_variables(tmp_path / 'v.msgpack', tree)
  loaded = artifact.load_variables(tmp_path / 'v.msgpack')
  np.testing.assert_array_equal(loaded['a']['b'], tree['a']['b'])
  assert loaded['a']['b'].dtype == np.float32


# Code.


class _Package:
  """A package of a few files: first rests on shared, second on both."""

  def __init__(self, root):
    self.root = root
    self.built = []
    for name, text in {
      '__init__': '',
      'first': 'from fake import shared',
      'second': 'from fake import methods\nfrom fake.first import f',
      'shared': '',
      'other': 'import fake.second',
      'methods/__init__': 'from fake.methods import member',
      'methods/member': 'from fake import other',
    }.items():
      path = root / f'{name}.py'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)

  def edit(self, name):
    path = self.root / f'{name}.py'
    path.write_text(path.read_text() + '\n# edited')
    code._hash.cache_clear()
    code._imports.cache_clear()

  def run(self, workdir, fail=False):
    """-> (what was built, {result: files that changed})."""
    self.built.clear()

    def first(directory, how):
      self.built.append('one/a' + '+' * (directory / 'part').exists())
      (directory / 'part').touch()
      if fail:
        raise KeyboardInterrupt

    def second(directory, how, *, source):
      self.built.append('two/b')

    first.__module__, second.__module__ = 'fake.first', 'fake.second'
    a = workdir.make('one', 'a', first, _HOW)
    workdir.make('two', 'b', second, _HOW, source=[a])
    return list(self.built), workdir.stale


@pytest.fixture
def package(tmp_path, monkeypatch):
  monkeypatch.setattr(code, '_ROOT', tmp_path / 'fake')
  monkeypatch.setattr(code, '_PACKAGE', 'fake')
  code._imports.cache_clear()
  code._hash.cache_clear()
  yield _Package(tmp_path / 'fake')
  code._imports.cache_clear()
  code._hash.cache_clear()


@pytest.fixture
def open_workdir(tmp_path):
  def open_it(anew=False, stages=('one', 'two')):
    return artifact.Workdir(tmp_path / 'run', stages, anew)

  return open_it


def test_a_module_rests_on_what_it_imports_but_for_registries(package):
  assert set(code.digests(['fake.first'])) == {
    *('__init__.py', 'first.py', 'shared.py')
  }
  assert set(code.digests(['fake.second', 'numpy.linalg'])) == {
    *('__init__.py', 'first.py', 'second.py', 'shared.py')
  }
  member = code.digests(['fake.first', 'fake.methods.member'])
  assert {'methods/member.py', 'other.py'} <= set(member)
  assert 'methods/__init__.py' not in member


def test_a_result_of_other_code_is_used_and_named(package, open_workdir, log):
  assert package.run(open_workdir()) == (['one/a', 'two/b'], {})
  package.edit('second')
  assert package.run(open_workdir()) == ([], {'two/b': ['second.py']})
  assert 'two/b is of other code (changed since: second.py)' in log.text
  package.edit('shared')
  both = {'one/a': ['shared.py'], 'two/b': ['second.py', 'shared.py']}
  assert package.run(open_workdir()) == ([], both)


def test_anew_makes_it_again_and_what_was_made_of_it(package, open_workdir):
  package.run(open_workdir())
  package.edit('shared')
  assert package.run(open_workdir(anew=True)) == (['one/a', 'two/b'], {})
  assert package.run(open_workdir(anew=True)) == ([], {})
  assert package.run(open_workdir()) == ([], {})
  package.edit('second')  # which the first result does not rest on
  assert package.run(open_workdir(anew=True)) == (['two/b'], {})


def test_what_was_made_of_an_older_input_is_made_again(package, open_workdir):
  package.run(open_workdir())
  package.edit('shared')
  with pytest.raises(ValueError, match="add the stage 'two'"):
    package.run(open_workdir(anew=True, stages=['one']))
  # The input is another now, whatever is asked.
  assert package.run(open_workdir()) == (['two/b'], {})


def test_anew_is_for_the_picked_stages(package, open_workdir):
  package.run(open_workdir())
  package.edit('shared')
  built, stale = package.run(open_workdir(anew=True, stages=['two']))
  assert (built, stale) == (['two/b'], {'one/a': ['shared.py']})


def test_an_edit_elsewhere_changes_nothing(package, open_workdir):
  package.run(open_workdir())
  for name in ('other', 'methods/__init__', 'methods/member'):
    package.edit(name)
  for anew in (False, True):
    assert package.run(open_workdir(anew)) == ([], {})


def test_an_unfinished_result_resumes_and_is_named(package, open_workdir):
  with pytest.raises(KeyboardInterrupt):
    package.run(open_workdir(), fail=True)
  assert package.run(open_workdir())[0] == ['one/a+', 'two/b']
  with pytest.raises(KeyboardInterrupt):
    package.edit('shared')
    package.run(open_workdir(anew=True), fail=True)
  package.edit('first')
  built, stale = package.run(open_workdir())
  assert built == ['one/a+', 'two/b']
  assert stale == {'one/a': ['first.py']}


def test_an_unfinished_result_of_other_code_starts_anew(package, open_workdir):
  with pytest.raises(KeyboardInterrupt):
    package.run(open_workdir(), fail=True)
  package.edit('first')
  assert package.run(open_workdir(anew=True)) == (['one/a', 'two/b'], {})


def test_the_codes_digest_is_that_of_its_text(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'x.py').write_text('1')
  first = code.package_digest(tmp_path)
  assert code.package_digest(tmp_path) == first
  (tmp_path / 'a' / 'x.py').write_text('2')
  second = code.package_digest(tmp_path)
  (tmp_path / 'a').rename(tmp_path / 'b')
  assert len({first, second, code.package_digest(tmp_path)}) == 3
