"""Shards aligned and embedded by two workers of Ray, and by this process."""

import os
import pathlib

import backfill_cases as cases
import numpy as np
import pytest

from fastfill_jax.backfill import __main__ as commands
from fastfill_jax.backfill import embedders
from fastfill_jax.forecast import fitting, holdings, planning
from fastfill_jax.storage import arrays, cluster

# Ray warns of its own settings.
pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings('ignore:.*:DeprecationWarning'),
]


@pytest.fixture(scope='module')
def ray():
  """A cluster of two machines, as far as Ray can tell."""
  import ray
  from ray import cluster_utils

  here = pathlib.Path(__file__).parent
  os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
  both = cluster_utils.Cluster(
    initialize_head=True, head_node_args={'num_cpus': 1}
  )
  both.add_node(num_cpus=1)
  path = os.pathsep.join([str(here), str(here.parent)])
  environment = {'env_vars': {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}}
  ray.init(address=both.address, runtime_env=environment, log_to_driver=False)
  yield ray
  ray.shutdown()
  both.shutdown()


@pytest.fixture
def gallery(tmp_path):
  """Old embeddings and ids in files of other sizes than a plan's shards."""
  rng = np.random.default_rng(0)
  rows = rng.standard_normal((500, 4)).astype(np.float32)
  arrays.write(tmp_path / 'old', rows, shard_rows=70)
  np.save(tmp_path / 'ids.npy', np.array([f'item {i}' for i in range(500)]))
  return holdings.read(tmp_path / 'old', tmp_path / 'ids.npy')


def _fitted():
  rng = np.random.default_rng(9)
  old = rng.standard_normal((60, 4)).astype(np.float32)
  new = np.tanh(old @ rng.standard_normal((4, 5))).astype(np.float32)
  return fitting.fit('l2+u', old, new, hidden_dim=8, max_steps=3)


def test_a_plan_is_that_of_one_process(ray, gallery, tmp_path, monkeypatch):
  monkeypatch.setattr(planning, 'SHARD_ROWS', 64)
  fitted = _fitted()
  for name, by_ray in (('here', False), ('there', True)):
    planning.write(
      tmp_path / name, gallery, fitted, 'sigma', 'cosine', by_ray=by_ray
    )
  for name in ('id', 'aligned', 'log_variance', 'score', 'order'):
    here, there = (
      arrays.ShardedArray(tmp_path / x / name)[:] for x in ('here', 'there')
    )
    np.testing.assert_array_equal(here, there)
  assert len(list((tmp_path / 'there' / 'score').glob('*.npy'))) == 8


def test_both_machines_take_part_and_a_failure_is_named(ray, tmp_path):
  def note(shard):
    import time

    import ray

    time.sleep(0.5)
    node = ray.get_runtime_context().get_node_id()
    (tmp_path / str(shard)).write_text(node)

  cluster.over(note, range(8), by_ray=True)
  nodes = {(tmp_path / str(x)).read_text() for x in range(8)}
  assert len(nodes) == 2

  def fail(shard):
    if shard == 2:
      raise ValueError('row 7 is not finite')

  with pytest.raises(ValueError, match='row 7 is not finite'):
    cluster.over(fail, range(4), by_ray=True)


def test_what_is_exported_is_embedded(ray, tmp_path, monkeypatch, capsys):
  from fastfill_jax.backfill import commands as short

  monkeypatch.setattr(short, '_ROWS', 32)
  ids = np.arange(100)
  plan = cases.write_plan(tmp_path / 'plan', ids)
  found = {}
  for name, flags in (('here', []), ('there', ['--ray'])):
    arrays.write(tmp_path / name / 'id', ids)
    code = commands.main(
      [
        *('embed', f'--plan={plan}', f'--ids={tmp_path / name}'),
        *('--embedder=backfill_cases:embedder', *flags),
      ]
    )
    assert code == 0, capsys.readouterr()
    found[name] = embedders.Vectors(tmp_path / name)(ids)
  assert found['here'].keys() == found['there'].keys() == set(ids.tolist())
  for one in ids.tolist():
    np.testing.assert_array_equal(found['here'][one], found['there'][one])
