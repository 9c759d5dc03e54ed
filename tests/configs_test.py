"""Every config's debug form."""

import pathlib

import numpy as np
import pipeline_runs
import pytest

from configs import base

_CONFIGS = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / 'configs').glob('*.py')
  # Without encoders: external_test.py.
  if path.stem not in ('__init__', 'base', 'embeddings')
)


@pytest.mark.parametrize('name', [x for x in _CONFIGS if x != 'digits'])
def test_debug_form_runs(name, tmp_path):
  config = pipeline_runs.debug_config(name)
  biased = 'biased' in name
  if not biased:  # Its report has all parts there are.
    config.stages = tuple(x for x in config.stages if x != 'report')
  results = pipeline_runs.run(config, tmp_path)
  assert {one.alignment for one in results} == set(config.alignments)
  assert bool(results[0].groups) == biased
  assert (tmp_path / 'groups.png').exists() == biased


def test_side_information_is_trained_and_used(tmp_path):
  config = base.add_side(pipeline_runs.debug_config())
  config.stages = tuple(x for x in config.stages if x != 'report')
  config.alignments = {
    name: config.alignments[name]
    for name in (config.main_alignment, 'l2+disc+u (FastFill) + side')
  }
  plain, with_side = pipeline_runs.run(config, tmp_path)
  assert list(tmp_path.glob('embed/side/seed0-*/train/view0/side/00000.npy'))
  assert plain.alignment + ' + side' == with_side.alignment
  assert not np.array_equal(plain.error, with_side.error)
