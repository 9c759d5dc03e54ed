"""Stages picked, killed, changed and refused, on the digits."""

import json
import resource

import numpy as np
import pipeline_runs
import pytest

from fastfill_jax import pipeline


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('digits')
  return workdir, pipeline_runs.run(pipeline_runs.debug_config(), workdir)


def _assert_same(results, others):
  assert len(results) == len(others)
  for one, other in zip(results, others, strict=True):
    assert (one.alignment, one.seed) == (other.alignment, other.seed)
    for metric in one.curves:
      np.testing.assert_array_equal(one.curves[metric], other.curves[metric])


def test_curves_start_aligned_and_end_at_new_new(finished):
  _, results = finished
  for one in results:
    for metric, curve in one.curves.items():
      end = one.references['new/new'][metric]
      np.testing.assert_allclose(curve[:, -1], end, rtol=1e-6)
      assert np.ptp(curve[:, 0]) == 0
    assert ('sigma' in one.policies) == (one.uncertainty is not None)
    assert set(one.policies) - {'sigma'} == {
      *pipeline_runs.debug_config().evaluate.policies
    } - {'sigma'}


def test_report_is_complete(finished):
  workdir, _ = finished
  for name in (
    'report.md',
    'ablation.tex',
    'summary.csv',
    'curves.csv',
    'curves.png',
    'curves.svg',
    'uncertainty.png',
    'training.png',
    'config.json',
    'versions.json',
  ):
    assert (workdir / name).stat().st_size, name


def test_a_finished_run_is_not_done_again(finished, log):
  workdir, results = finished
  _assert_same(
    pipeline_runs.run(pipeline_runs.debug_config(), workdir), results
  )
  assert 'done before' in log.text
  assert ' steps, ' not in log.text


def test_references_are_swept_once(finished):
  workdir, results = finished
  (references,) = workdir.glob('evaluate/references/seed0-*')
  assert (references / 'done').exists()
  first = results[0].references
  assert set(first) == {'old/old', 'new/new'}
  assert all(one.references == first for one in results)


def test_a_changed_setting_redoes_what_depends_on_it(finished, log):
  workdir, _ = finished
  config = pipeline_runs.debug_config()
  config.align.num_epochs = 3
  pipeline_runs.run(config, workdir)
  lines = [record.getMessage() for record in log.records]
  done = {line.split(':')[0] for line in lines if 'done before' in line}
  anew = {line.split(':')[0] for line in lines if 'made anew' in line}
  assert {'old/seed0', 'new/seed0', 'embed/seed0'} <= done
  assert 'align/ridge/seed0' in done
  assert 'align/l2_FCT/seed0' in anew
  assert any('recipe.num_epochs: 2 -> 3' in line for line in lines)


@pytest.mark.parametrize('kill_at', [2, 7, 12])
def test_a_killed_run_ends_with_the_same_numbers(finished, tmp_path, kill_at):
  config = pipeline_runs.debug_config()
  config.run.checkpoint_every = 2
  del config.alignments['l2 (FCT)'], config.alignments['ridge']
  with pytest.raises(KeyboardInterrupt):
    pipeline_runs.run(config, tmp_path, kill_at)
  kept = {one.alignment: one for one in finished[1]}
  results = pipeline_runs.run(config, tmp_path)
  _assert_same(results, [kept[one.alignment] for one in results])


def test_stages_can_be_picked(tmp_path):
  config = pipeline_runs.debug_config()
  config.stages = ('align',)
  with pytest.raises(ValueError, match=r"add the stage 'old'"):
    pipeline_runs.run(config, tmp_path)
  config.stages = ('old',)
  assert pipeline_runs.run(config, tmp_path) == []
  assert not (tmp_path / 'new').exists()


def test_a_workdir_of_another_config_is_refused(finished):
  config = pipeline_runs.debug_config('imagenet')
  with pytest.raises(
    ValueError, match="'digits_debug', not of 'imagenet_debug"
  ):
    pipeline.claim(config, finished[0])


def test_a_full_workdir_is_an_error_that_leaves_no_half(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # No file may grow: what is written fails as on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
  try:
    with pytest.raises(OSError, match='File too large'):
      pipeline.claim(pipeline_runs.debug_config(), tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  pipeline.claim(pipeline_runs.debug_config(), tmp_path)
  assert json.loads((tmp_path / 'config.json').read_text())


def test_the_codes_digest_is_that_of_its_text(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'x.py').write_text('1')
  first = pipeline.code_digest(tmp_path)
  assert pipeline.code_digest(tmp_path) == first
  (tmp_path / 'a' / 'x.py').write_text('2')
  second = pipeline.code_digest(tmp_path)
  (tmp_path / 'a').rename(tmp_path / 'b')
  assert len({first, second, pipeline.code_digest(tmp_path)}) == 3


def test_a_workdir_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='Not a directory'):
    pipeline.claim(pipeline_runs.debug_config(), tmp_path / 'file' / 'run')


def _set(path, value):
  def change(config):
    *parents, last = path.split('.')
    for parent in parents:
      config = config[parent]
    with config.ignore_type():
      config[last] = value

  return change


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_set('stages', ('train',)), r"there is no \['train'\]"),
    (_set('seeds', ()), 'seeds'),
    (_set('old.encoder.name', 'mpl'), "did you mean 'mlp'"),
    (_set('old.encoder.widths', (0,)), 'widths'),
    (_set('new.head.name', 'arc'), "Unknown head 'arc'"),
    (_set('new.batch_size', 6), 'batch_size=6 does not divide'),
    (_set('old.minority_fraction', 0.0), 'old.minority_fraction=0.0'),
    (_set('data.validation_fraction', 1.0), 'data.validation_fraction=1.0'),
    (_set('data.train_transform.name', 'shift'), 'unknown transform'),
    (_set('embed.dtype', 'int8'), "embed.dtype='int8'"),
    (_set('align.freeze_batch_norm', 2.0), 'freeze_batch_norm=2.0'),
    (_set('alignments.ridge.kind', 'rigde'), "kind='rigde'"),
    (_set('evaluate.policies', ('sigam',)), "Did you mean 'sigma'"),
  ],
)
def test_wrong_values_are_refused_before_any_work(change, message):
  config = pipeline_runs.debug_config()
  change(config)
  with pytest.raises(ValueError, match=message):
    pipeline.check(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_set('old.classes', (3, 99)), r'no such classes: \[99\]'),
    (_set('data.train_split', 'trian'), "no split 'trian'"),
    (_set('data.gallery_split', 'tset'), "no split 'tset'"),
    (_set('new.classes', (3, 99)), r'no such classes: \[99\]'),
    (_set('new.optimizer.name', 'sdg'), "Unknown optimiser 'sdg'"),
    (_set('align.optimizer.name', 'adma'), "Unknown optimiser 'adma'"),
    (_set('align.batch_size', 4096), '4096 is larger than'),
    (_set('old.optimizer.name', 'sdg'), "Unknown optimiser 'sdg'"),
    (_set('old.batch_size', 4096), '4096 is larger than'),
    (_set('data.options.train_examples', 0), 'give 1 or more'),
  ],
)
def test_wrong_data_is_refused(tmp_path, change, message):
  config = pipeline_runs.debug_config()
  change(config)
  with pytest.raises(ValueError, match=message):
    pipeline_runs.run(config, tmp_path)
  assert not list(tmp_path.glob('*/*/done'))
  assert not list(tmp_path.glob('*/*/checkpoints'))
