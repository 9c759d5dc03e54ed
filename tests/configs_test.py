"""Every config's debug form."""

import pathlib

import numpy as np
import pipeline_runs
import pytest

from configs import base, digits

_CONFIGS = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / 'configs').glob('*.py')
  # Without encoders: stages_external_test.py.
  if path.stem not in ('__init__', 'base', 'embeddings')
)


@pytest.mark.parametrize('name', [x for x in _CONFIGS if x != 'digits'])
def test_debug_form_runs(name, tmp_path):
  """Up to the embeddings, from where on all are alike; one to its end."""
  config = pipeline_runs.debug_config(name)
  pipeline_runs.keep(config, config.main_alignment)
  biased = 'biased' in name
  if not biased:  # Its report has all parts there are.
    config.stages = ('encode', 'embed')
  results = pipeline_runs.run(config, tmp_path)
  assert len(list(tmp_path.glob('embed/*/seed0-*/done'))) == 2
  assert len(results) == biased
  if biased:
    assert results[0].groups
    assert (tmp_path / 'groups.png').exists()


def test_side_information_is_trained_and_used(tmp_path):
  config = base.add_side(pipeline_runs.debug_config())
  config.align.freeze_batch_norm = 1.0
  config.stages = tuple(x for x in config.stages if x != 'report')
  names = config.main_alignment, f'{config.main_alignment} + side'
  pipeline_runs.keep(config, *names)
  for name in ('new', 'side'):  # which compiles sooner
    config.encoders[name].encoder = config.encoders.old.encoder
  plain, with_side = pipeline_runs.run(config, tmp_path)
  assert list(tmp_path.glob('embed/side/seed0-*/train/view0/side/00000.npy'))
  assert plain.alignment + ' + side' == with_side.alignment
  assert not np.array_equal(plain.error, with_side.error)


def test_a_second_update_is_reported(tmp_path):
  config = digits._shrink(digits.get_config('sequence'))
  config.align.freeze_batch_norm = 1.0
  config.encoders.old.encoder.widths = (8,)
  for name in ('new', 'newer'):  # one program for all, and one for all maps
    config.encoders[name].encoder = config.encoders.old.encoder
  pipeline_runs.run(config, tmp_path)
  table = (tmp_path / 'sequence.csv').read_text().splitlines()
  # Three policies, five switches and both updates at once.
  assert len(table) == 1 + 3 * (5 + 1)
  text = (tmp_path / 'report.md').read_text('utf-8')
  assert '| policy | 0% | 25% | 50% | 75% | 100% | old to newer at once |' in (
    text
  )
