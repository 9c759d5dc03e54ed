"""Stages picked, killed, changed and refused, on the digits."""

import json
import resource

import numpy as np
import pipeline_runs
import pytest
from ml_collections import ConfigDict

from fastfill_jax import pipeline
from fastfill_jax.methods import encoder_terms
from fastfill_jax.stages import request


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
    asked = pipeline_runs.debug_config().evaluate.policies
    assert {*one.policies, *one.left_out} == {*asked}
    for missing in one.left_out.values():
      assert missing == ('log_variance',)


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
  config = pipeline_runs.debug_config()
  config.stages = config.stages[:-1]  # but for the report
  _assert_same(pipeline_runs.run(config, workdir), results)
  assert 'There already: 2 of encode, 3 of embed, 2 of align, ' in log.text
  assert ' steps, ' not in log.text


def test_references_are_swept_once(finished):
  workdir, results = finished
  (references,) = workdir.glob('evaluate/references/old-new/seed0-*')
  assert (references / 'done').exists()
  first = results[0].references
  assert set(first) == {'old/old', 'new/new'}
  assert all(one.references == first for one in results)


def test_a_run_killed_again_and_again_ends_with_the_same_numbers(
  finished, tmp_path, log
):
  config = pipeline_runs.debug_config()
  config.run.checkpoint_every = 2
  config.stages = ('encode', 'embed', 'align', 'evaluate')
  del config.alignments['ridge']
  for kill_at in (7, 6):  # Of the new encoder's and the alignment's 6 steps.
    with pytest.raises(KeyboardInterrupt):
      pipeline_runs.run(config, tmp_path, kill_at)
  (result,) = pipeline_runs.run(config, tmp_path)
  resumed = [x for x in log.messages if 'resumes after' in x]
  assert [x.split(':')[0] for x in resumed] == ['new', 'l2+disc+u_FastFill']
  _assert_same(
    [result], [x for x in finished[1] if x.alignment == result.alignment]
  )


def test_served_are_the_orders_that_the_main_row_has(finished):
  workdir, _ = finished
  config = pipeline_runs.debug_config()
  config.main_alignment = 'ridge'
  config.serve.policies = ('random', 'sigma')
  config.serve.index = 'exact'
  config.stages = ('evaluate', 'serve')
  before = set(workdir.glob('serve/*'))
  pipeline_runs.run(config, workdir)
  (made,) = set(workdir.glob('serve/*')) - before
  rows = (made / 'served.csv').read_text().splitlines()[1:]
  assert {row.split(',')[1] for row in rows} == {'random'}


def test_stages_can_be_picked(tmp_path):
  config = pipeline_runs.debug_config()
  config.encoders.side = config.encoders.old  # which no row reads
  config.stages = ('align',)
  with pytest.raises(ValueError, match=r"add the stage 'encode'"):
    pipeline_runs.run(config, tmp_path)
  config.stages = ('encode',)
  assert pipeline_runs.run(config, tmp_path) == []
  # All encoders, read or not.
  assert len(list(tmp_path.glob('encode/*/seed0-*/done'))) == 3
  assert not (tmp_path / 'embed').exists()


def test_a_gallery_of_another_source_keeps_the_encoders(tmp_path):
  config = pipeline_runs.debug_config()
  config.stages = ('encode', 'embed')
  pipeline_runs.run(config, tmp_path)
  config.data.gallery_transform = {'name': 'shifted'}
  pipeline_runs.run(config, tmp_path)
  assert len([*tmp_path.glob('encode/old/*/made.json')]) == 1
  clean, shifted = sorted(
    tmp_path.glob('embed/old/seed*'), key=lambda path: path.stat().st_ctime
  )
  for part, same in (('train/view0', True), ('gallery', False)):
    rows = [np.load(x / part / 'old/00000.npy') for x in (clean, shifted)]
    assert np.array_equal(*rows) == same


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


def _row(**fields):
  return _set('alignments.ridge', ConfigDict(fields))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_set('stages', ('train',)), "Unknown stage 'train'"),
    (_set('stages', ()), r'stages=\(\)'),
    (_set('seeds', ()), 'seeds'),
    (_set('seeds', ('0', 'x')), r"seeds=\('0', 'x'\)"),
    (_set('seeds', (0, -1)), r'seeds=\(0, -1\)'),
    (_set('run.log_every', 0), 'run.log_every=0'),
    (_set('run.sweep_backend', 'nmba'), "backend 'nmba', did you mean 'numba'"),
    (_set('encoders.old.encoder.name', 'mpl'), "did you mean 'mlp'"),
    (_set('encoders.old.encoder.widths', (0,)), 'widths'),
    (_set('encoders.new.head.name', 'arc'), "Unknown head 'arc'"),
    (_set('encoders.new.batch_size', 6), 'batch_size=6 does not divide'),
    (
      _set('encoders.old.minority_fraction', 0.0),
      'old.minority_fraction=0.0',
    ),
    (
      _set('encoders.new.terms', ConfigDict({'clasify': 1.0})),
      "term 'clasify', did you mean 'classify'",
    ),
    (
      _set('encoders.side.terms.simclr', ConfigDict({'temperatur': 0.1})),
      "'simclr' 'temperatur', did you mean 'temperature'",
    ),
    (
      _set('encoders.new.teacher', 'old'),
      r"encoders.new: terms \['classify'\] and teacher='old'",
    ),
    (_set('encoders.new.start', 'odl'), "reads 'odl', did you mean 'old'"),
    (_set('encoders.new.start', 'new'), 'read each other: new'),
    (_set('data.validation_fraction', 1.0), 'data.validation_fraction=1.0'),
    (_set('data.train_transform.name', 'shift'), "Unknown transform 'shift'"),
    (_set('embed.dtype', 'int8'), "Unknown embed.dtype 'int8'"),
    (_set('embed.views', 0), 'embed.views=0'),
    (_set('align.freeze_batch_norm', 2.0), 'freeze_batch_norm=2.0'),
    (_row(method='rigde'), r"alignments\['ridge'\].*did you mean 'ridge'"),
    (_row(penalty=1.0), r"alignments\['ridge'\]: Unknown method None"),
    (_row(method='ridge', penalti=1.0), "did you mean 'penalty'"),
    (_row(method='fct', error={'l': 1.0}), "Unknown term 'l'"),
    (_row(method='fct', error={'l2': 0.0}), 'of the loss are all 0'),
    (_row(method='fct', error={'l2': -1.0}), 'not below 0'),
    (_row(method='fct', error={'l2': {'wight': 1.0}}), "mean 'weight'"),
    (_row(method='ridge', fuse=1.5), r'fuse=1.5 is a share'),
    (_row(method='ridge', old='odl'), "encoder 'odl', did you mean 'old'"),
    (_row(method='identity'), r"alignments\['ridge'\]: the identity needs"),
    (_set('main_alignment', 'rigde'), "main_alignment 'rigde'"),
    (_set('evaluate.policies', ('sigam',)), "did you mean 'sigma'"),
    (_set('evaluate.steps', -1), 'steps >= 0'),
    (_set('serve.policies', ('sigam',)), "'sigam', did you mean 'sigma'"),
    (_set('serve.k', 4), 'serve.k=4'),
  ],
)
def test_wrong_values_are_refused_before_any_work(change, message):
  config = pipeline_runs.debug_config()
  change(config)
  with pytest.raises(ValueError, match=message):
    request.check(config)


def test_a_term_that_reads_a_teacher_needs_one(monkeypatch):
  def mimic(embedding, teacher_embedding):
    return (embedding - teacher_embedding) ** 2

  monkeypatch.setitem(encoder_terms.TERMS, 'mimic', mimic)
  config = pipeline_runs.debug_config()
  config.encoders.old.encoder.embedding_dim = 32
  config.encoders.new.terms.mimic = 1.0
  with pytest.raises(ValueError, match=r"'mimic'\] and teacher='' do not go"):
    request.check(config)
  config.encoders.new.teacher = 'old'
  request.check(config)
  config.encoders.old.terms.mimic = 1.0
  config.encoders.old.teacher = 'new'
  with pytest.raises(ValueError, match='read each other: '):
    request.check(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_set('encoders.old.classes', (3, 99)), r'no such classes: \[99\]'),
    (_set('data.train_split', 'trian'), "no split 'trian'"),
    (_set('data.gallery_split', 'tset'), "no split 'tset'"),
    (_set('encoders.new.optimizer.name', 'sdg'), "Unknown optimiser 'sdg'"),
    (_set('align.optimizer.name', 'adma'), "Unknown optimiser 'adma'"),
    (_set('align.batch_size', 4096), '4096 is larger than'),
    (_set('encoders.new.batch_size', 4096), '4096 is larger than'),
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
