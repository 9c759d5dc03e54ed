"""Embeddings from elsewhere, from a folder of arrays to a plan."""

import numpy as np
import pipeline_runs
import pytest

from configs import embeddings as config_file
from fastfill_jax import policies

_CLASSES = 4


def _split(rng, size, first_id):
  """Old embeddings that lost some coordinates of the new ones."""
  label = rng.integers(0, _CLASSES, size)
  centre = np.eye(_CLASSES, 6, dtype=np.float32)
  new = 2 * centre[label] + rng.normal(size=(size, 6)).astype(np.float32)
  return {
    'old': new[:, :3].astype(np.float16),
    'new': new.astype(np.float16),
    'label': label,
    'id': first_id + np.arange(size),
  }


@pytest.fixture
def source(tmp_path):
  rng = np.random.default_rng(0)
  splits = {
    'train': _split(rng, 64, 0),
    'gallery': _split(rng, 40, 100),
    'query': _split(rng, 12, 200),
    'backfill': _split(rng, 30, 300),
  }
  del splits['train']['id']
  for name in ('new', 'label'):
    del splits['backfill'][name]
  for split, arrays in splits.items():
    (tmp_path / 'source' / split).mkdir(parents=True)
    for name, array in arrays.items():
      np.save(tmp_path / 'source' / split / f'{name}.npy', array)
  return tmp_path / 'source'


def _config(source, form=''):
  config = config_file.get_config(form)
  config.embed.source = str(source)
  config.align.batch_size = 16
  config.align.num_epochs = 2
  config.align.warmup_epochs = 1
  config.align.hidden_dim = 16
  return config


def test_from_arrays_to_curves_and_a_plan(source, tmp_path):
  config = _config(source)
  config.stages = ('embed', 'align', 'evaluate', 'plan')
  del config.alignments['l2 (FCT)'], config.alignments['procrustes']
  results = {
    one.alignment: one for one in pipeline_runs.run(config, tmp_path / 'a')
  }
  assert set(results) == {'ridge', 'l2+u'}
  ours = results['l2+u']
  # No classifier: no policy that reads one.
  blind = {'random', 'sigma', 'neighbour_entropy', 'sigma_neighbours'}
  blind |= {'learnt_gain'}
  assert set(ours.policies) == blind | {'class_mean', 'distance', 'gain'}
  assert len(ours.error) == 40
  (plan,) = (tmp_path / 'a').glob('plan/seed0-*')
  ids = 300 + np.arange(30)
  assert {x.stem for x in plan.glob('*.npy')} == blind
  np.testing.assert_array_equal(np.sort(np.load(plan / 'random.npy')), ids)
  log_variance = np.load(plan / 'log_variance/00000.npy')
  np.testing.assert_array_equal(
    np.load(plan / 'sigma.npy'), ids[policies.sigma(log_variance)]
  )
  assert np.load(plan / 'aligned/00000.npy').shape == (30, 6)


def test_a_classifier_adds_the_whole_loss_and_its_policies(source, tmp_path):
  np.save(source / 'classifier.npy', np.ones((6, _CLASSES), np.float32))
  config = _config(source, 'classifier')
  config.stages = ('embed', 'align', 'evaluate')
  config.main_alignment = 'mixfill (ours)'
  for name in set(config.alignments) - {'ridge', config.main_alignment}:
    del config.alignments[name]
  mixfill, ridge = pipeline_runs.run(config, tmp_path / 'a')
  assert (mixfill.alignment, ridge.alignment) == ('mixfill (ours)', 'ridge')
  assert 'entropy' in ridge.policies
  assert 'sigma_entropy' in mixfill.policies


def test_held_out_classes_are_the_gallerys_alone(source, tmp_path):
  config = _config(source)
  config.stages = ('embed',)
  config.data.held_out = (1, 3)
  pipeline_runs.run(config, tmp_path / 'a')
  (embedded,) = (tmp_path / 'a').glob('embed/source-*')
  found = {}
  for split in ('train/view0', 'gallery', 'query'):
    folder = source / split.removesuffix('/view0')
    label = np.load(folder / 'label.npy')
    rows = np.flatnonzero(np.isin(label, [1, 3]) == (split != 'train/view0'))
    for name in ('old', 'label'):
      held = np.load(embedded / split / name / '00000.npy')
      np.testing.assert_array_equal(held, np.load(folder / f'{name}.npy')[rows])
    found[split] = set(label[rows])
  assert found['train/view0'] == {0, 2}
  assert found['gallery'] == found['query'] == {1, 3}
  config.data.held_out = (17,)
  with pytest.raises(ValueError, match=r'held_out=\[17\] leaves nothing'):
    pipeline_runs.run(config, tmp_path / 'a')


def test_what_changes_is_taken_anew(source, tmp_path, log):
  config = _config(source)
  config.stages = ('embed',)
  pipeline_runs.run(config, tmp_path / 'a')
  pipeline_runs.run(config, tmp_path / 'a')
  assert 'There already: 1 of embed' in log.text
  new = np.load(source / 'train/new.npy')
  np.save(source / 'train/new.npy', np.concatenate([new, new]))
  with pytest.raises(ValueError, match='different lengths'):
    pipeline_runs.run(config, tmp_path / 'a')


def test_shards_are_linked_to(source, tmp_path):
  old = np.load(source / 'train/old.npy')
  (source / 'train/old.npy').unlink()
  (source / 'train/old').mkdir()
  for shard, rows in enumerate(np.split(old, [50])):
    np.save(source / f'train/old/{shard:05d}.npy', rows)
  config = _config(source)
  config.stages = ('embed',)
  pipeline_runs.run(config, tmp_path / 'a')
  (embedded,) = (tmp_path / 'a').glob('embed/source-*')
  linked = embedded / 'train/view0/old/00001.npy'
  assert linked.is_symlink()
  np.testing.assert_array_equal(np.load(linked), old[50:])


def _save(path, change):
  def damage(source):
    np.save(source / path, change(np.load(source / path)))

  return damage


def _set_nan(array):
  array[7, 1] = np.nan
  return array


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda x: (x / 'gallery/label.npy').unlink(), 'must hold.*label'),
    (lambda x: np.save(x / 'train/odl.npy', 0), r"holds \['label'.*'odl'"),
    (_save('query/old.npy', lambda x: x[:, :2]), 'query/old has 2 columns'),
    (_save('train/new.npy', lambda x: x[1:]), 'different lengths'),
    (_save('train/new.npy', _set_nan), 'train/new is not finite in row 7'),
    (
      _save('train/old.npy', lambda x: x[:, 0]),
      r'old must be floats \[row, em',
    ),
    (_save('gallery/label.npy', lambda x: x / 2), 'label must be integers'),
    (
      lambda x: np.save(x / 'classifier.npy', np.ones((5, 4))),
      r'must be \[new embedding=6, class\], not \(5, 4\)',
    ),
    (
      lambda x: np.save(x / 'classifier.npy', np.ones((6, 2))),
      'label holds 0 to 3; classifier.npy has 2 classes',
    ),
  ],
)
def test_arrays_that_do_not_fit_are_refused(source, tmp_path, damage, message):
  damage(source)
  with pytest.raises(ValueError, match=message):
    pipeline_runs.run(_config(source), tmp_path / 'a')
  assert not list((tmp_path / 'a').glob('embed/*/done'))


def test_a_plan_needs_no_evaluation(source, tmp_path):
  config = _config(source)
  config.stages = ('embed', 'align', 'plan')
  del config.alignments['l2 (FCT)'], config.alignments['procrustes']
  assert pipeline_runs.run(config, tmp_path / 'a') == []
  assert list((tmp_path / 'a').glob('plan/seed0-*/sigma.npy'))
  assert not (tmp_path / 'a' / 'evaluate').exists()


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match=r'no folder .*nowhere/train'):
    pipeline_runs.run(_config(tmp_path / 'nowhere'), tmp_path / 'a')


def test_side_information_has_to_be_there(source, tmp_path):
  config = _config(source, 'side')
  del config.alignments['l2+disc+u (FastFill) + side']
  with pytest.raises(ValueError, match=r"side'\]: .*reads side, which"):
    pipeline_runs.run(config, tmp_path / 'a')


def test_the_classifiers_loss_needs_the_classifier(source, tmp_path):
  with pytest.raises(
    ValueError,
    match=r'\]: .*reads label, classifier, w|\]: .*classifier, which',
  ):
    pipeline_runs.run(_config(source, 'classifier'), tmp_path / 'a')
