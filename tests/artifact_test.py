import json

import numpy as np
import pytest

from fastfill_jax import artifact


def _writer(text):
  return lambda directory: (directory / 'text').write_text(text)


def test_a_result_that_is_there_is_not_made_again(tmp_path):
  settings = {'width': 3, 'inputs': {'old': 'abc'}}
  first = artifact.make(tmp_path, 'new/seed0', settings, _writer('one'))
  again = artifact.make(tmp_path, 'new/seed0', settings, _writer('two'))
  assert first == again
  assert (again.directory / 'text').read_text() == 'one'
  held = json.loads((again.directory / 'settings.json').read_text())
  assert held == settings


def test_a_changed_setting_makes_another_and_says_so(tmp_path, log):
  artifact.make(tmp_path, 'new/seed0', {'a': {'b': 1}}, _writer('one'))
  log.clear()
  other = artifact.make(tmp_path, 'new/seed0', {'a': {'b': 2}}, _writer('two'))
  assert (other.directory / 'text').read_text() == 'two'
  assert 'made anew, for a.b: 1 -> 2' in log.text
  back = artifact.make(tmp_path, 'new/seed0', {'a': {'b': 1}}, _writer('new'))
  assert (back.directory / 'text').read_text() == 'one'


def test_an_interrupted_build_is_not_done_and_keeps_its_files(tmp_path):
  def fail(directory):
    (directory / 'part').touch()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    artifact.make(tmp_path, 'x', {}, fail)
  assert not artifact.locate(tmp_path, 'x', {}).done
  seen = []
  artifact.make(tmp_path, 'x', {}, lambda d: seen.extend(d.iterdir()))
  assert 'part' in {path.name for path in seen}


def test_what_may_not_be_built_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"add the stage 'new'"):
    artifact.make(tmp_path, 'new/seed0', {}, _writer(''), allowed=False)
  assert not list(tmp_path.iterdir())


def test_variables_round_trip(tmp_path):
  tree = {'a': {'b': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'c': {}}
  artifact.save_variables(tmp_path / 'v.msgpack', tree)
  loaded = artifact.load_variables(tmp_path / 'v.msgpack')
  np.testing.assert_array_equal(loaded['a']['b'], tree['a']['b'])
  assert loaded['a']['b'].dtype == np.float32
