import numpy as np
import pytest

from fastfill_jax.storage import checkpoint


def _state(value):
  return {'a': np.full(4, value, np.float32), 'step': np.int32(value)}


def _steps(path):
  return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())


def _save(path, scores, best=None):
  saver = checkpoint.Checkpointer(path, best)
  for step, score in scores.items():
    saver.save(step, _state(step), {'accuracy': score} if best else None)
  saver.close()


def _restore(path):
  saver = checkpoint.Checkpointer(path)
  step, state = saver.restore(_state(0))
  saver.close()
  return step, state


def _truncate(path, step):
  for file in (path / str(step)).rglob('*'):
    if file.is_file():
      file.write_bytes(b'')


def test_an_empty_folder_gives_the_template(tmp_path):
  step, state = _restore(tmp_path)
  assert step == 0
  np.testing.assert_array_equal(state['a'], np.zeros(4))


def test_last_two_and_best_are_kept(tmp_path):
  _save(tmp_path, {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.4}, 'accuracy')
  assert _steps(tmp_path) == [2, 4, 5]


def test_the_newest_is_restored(tmp_path):
  _save(tmp_path, dict.fromkeys((1, 2, 3)))
  step, state = _restore(tmp_path)
  assert (step, int(state['step'])) == (3, 3)
  np.testing.assert_array_equal(state['a'], np.full(4, 3, np.float32))


def test_a_truncated_one_falls_back_and_says_so(tmp_path, log):
  _save(tmp_path, dict.fromkeys((1, 2)))
  _truncate(tmp_path, 2)
  step, state = _restore(tmp_path)
  assert (step, int(state['step'])) == (1, 1)
  assert 'Checkpoint 2' in log.text
  assert (tmp_path / '2.unreadable').exists()
  _save(tmp_path, {2: None})  # its number is free again
  assert _restore(tmp_path)[0] == 2


def test_none_readable_is_an_error(tmp_path):
  _save(tmp_path, dict.fromkeys((1, 2)))
  for step in (1, 2):
    _truncate(tmp_path, step)
  with pytest.raises(ValueError, match=r'No checkpoint in .* can be read'):
    _restore(tmp_path)
