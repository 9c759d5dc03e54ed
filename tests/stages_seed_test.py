"""What a result is named by, without making one."""

import pathlib

import numpy as np
import PIL.Image
import pipeline_runs
import pytest

from configs import base
from fastfill_jax import parallel
from fastfill_jax.data import dataset
from fastfill_jax.stages import request, seed
from fastfill_jax.storage import artifact


class _Recorder(artifact.Workdir):
  """Takes down what would be made."""

  def __init__(self):
    super().__init__(pathlib.Path('/nowhere'), ())
    self.made = {}

  def make(self, stage, name, build, how, /, code_of=(), **given):
    digest = artifact._digest(artifact._settled(given))
    directory = self.path / f'{stage}/{name}-{digest}'
    self.made[f'{stage}/{name}'] = digest
    return artifact.Artifact(f'{stage}/{name}', digest, directory, digest)


def _digests(change=lambda config: None, config=None):
  """By the name of a result its digest, of all stages up to 'evaluate'."""
  config = config or pipeline_runs.debug_config()
  change(config)
  request.check(config)
  how = request.how(config, parallel.Preemption())
  data = dataset.describe(config.data.to_dict(), how)
  recorder = _Recorder()
  one = seed.Seed(config, recorder, how, data, 0)
  one.embed()
  for row in request.rows(config):
    one.evaluate(row)
  return recorder.made


def _changed(change, before=None):
  """The results that a change makes anew, of those there are either way."""
  before, after = before or _digests(), _digests(change)
  return {name for name in before if before[name] != after.get(name)}


def test_how_it_is_run_changes_nothing():
  def change(config):
    config.run.update(
      num_workers=2,
      in_memory=False,
      log_every=7,
      checkpoint_every=3,
      evaluate_every=9,
      embed_batch_size=8,
      sweep_backend='jax',
      memory_limit=10**8,
      anew=True,
      profile='somewhere',
    )
    config.stages = ('encode', 'report')
    config.published = {'old/old': {'mAP': 1.0}}
    config.serve.policies = ()

  assert not _changed(change)


def test_a_setting_changes_what_depends_on_it_and_nothing_else():
  of_fastfill = {'align/l2+disc+u_FastFill/seed0'}
  of_fastfill |= {'evaluate/l2+disc+u_FastFill/seed0'}

  def weight(config):
    config.alignments[base.FASTFILL].error = {'l2': 2.0, 'disc': 1.0}

  assert _changed(weight) == of_fastfill

  def old_epochs(config):
    config.encoders.old.num_epochs = 3

  before = _digests()
  changed = _changed(old_epochs, before)
  assert set(before) - changed == {
    'encode/new/seed0',
    'embed/new/seed0',
    'embed/columns',
  }

  def term_of_encoder(config):
    config.encoders.new.terms.classify = 0.5

  changed = _changed(term_of_encoder, before)
  assert set(before) - changed == {
    'encode/old/seed0',
    'embed/old/seed0',
    'embed/columns',
  }

  def side(config):
    config.encoders.side.num_epochs = 9

  assert not _changed(side, before)  # which no row reads

  def steps(config):
    config.evaluate.steps = 3

  changed = _changed(steps, before)
  assert {name.split('/')[0] for name in changed} == {'evaluate'}
  assert not any('references' in name for name in changed)


def test_rows_that_differ_in_fuse_share_a_fit():
  def change(config):
    config.alignments.fused = base.row('fastfill', fuse=0.5)
    config.alignments.other = base.row('fastfill', uncertainty='none')

  made = _digests(change)
  same = {'align/fused/seed0', 'align/l2+disc+u_FastFill/seed0'}
  assert len(same & set(made)) == 1
  assert 'align/other/seed0' in made
  digests = {x: made[f'evaluate/{x}/seed0'] for x in ('fused', 'other')}
  digests['main'] = made['evaluate/l2+disc+u_FastFill/seed0']
  assert len(set(digests.values())) == 3


def _folder(root, sizes):
  """Images of two classes of a training and a test split."""
  for split in ('train', 'test'):
    for label in ('a', 'b'):
      (root / split / label).mkdir(parents=True)
      for number, size in enumerate(sizes):
        PIL.Image.new('RGB', (size, size)).save(
          root / split / label / f'{number}.png'
        )
  return root


@pytest.mark.parametrize('other', ['place', 'names', 'sizes'])
def test_other_images_of_the_same_classes_are_other_data(tmp_path, other):
  roots = [_folder(tmp_path / x, [8] * 9) for x in ('one', 'two')]
  if other == 'names':
    path = roots[1] / 'test/a/3.png'
    path.rename(path.with_name('30.png'))
  if other == 'sizes':
    path = roots[1] / 'test/a/3.png'
    image = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    PIL.Image.fromarray(image).save(path)
  made = []
  for root in roots:

    def change(config, root=root):
      config.data.name = 'image_folder'
      config.data.options = {}
      config.run.data_dir = str(root)

    made.append(_digests(change))
  changed = {name for name in made[0] if made[0][name] != made[1][name]}
  if other == 'place':
    assert not changed
  else:  # The gallery's: what is trained is the same.
    assert not {x for x in changed if x.startswith('encode/')}
    assert {'embed/old/seed0', 'embed/columns'} <= changed


def test_encoders_come_after_those_they_read():
  encoders = {
    'old': {'teacher': '', 'start': ''},
    'new': {'teacher': 'old', 'start': 'middle'},
    'middle': {'teacher': 'old', 'start': ''},
  }
  assert request.in_order(encoders, ['new', 'old']) == ['old', 'middle', 'new']
  encoders['old']['teacher'] = 'new'
  with pytest.raises(ValueError, match=r'read each other: new -> old'):
    request.in_order(encoders, ['new'])
