"""The sweep in blocks: memory, disk, threads, devices and processes."""

import curve_cases
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import curve, parallel
from fastfill_jax.curve import inputs, jax_counting, jax_sweep, numba_sweep
from fastfill_jax.storage import arrays

_BACKENDS = ('numba', 'jax')


def test_blocks_and_chunks_change_nothing():
  case = curve_cases.make(10, queries=30, size=60, dim=40, policies=3)
  case['cutoffs'] = curve.cutoffs(60, steps=18)
  problem = curve_cases.prepare(case)
  space = numba_sweep.share_out(problem, 9_000)
  assert space.workers == space.block == 1
  assert space.rows < 60
  assert space.table_size < 2 * problem.positives[0] * 20
  case |= {'backend': 'numba', 'per_query': True}
  whole, split = curve.sweep(**case), curve.sweep(**case, memory_limit=9_000)
  curve_cases.assert_equal(whole, split)
  curve_cases.assert_close(whole['per_query'], split['per_query'], 0)


def test_jax_blocks_and_chunks_change_nothing(monkeypatch):
  case = curve_cases.make(10, queries=30, size=60, dim=40, policies=3)
  case |= {'cutoffs': curve.cutoffs(60, steps=18), 'backend': 'jax'}
  layouts = []

  def make_layout(*args, make_layout=jax_sweep.make_layout):
    layouts.append(make_layout(*args))
    return layouts[-1]

  monkeypatch.setattr(jax_sweep, 'make_layout', make_layout)
  whole = curve.sweep(**case)
  assert {(x.block, x.chunk) for x in layouts} == {(8, 20)}
  layouts.clear()
  split = curve.sweep(**case, memory_limit=4 * 27_000)
  assert (layouts[0].block, layouts[0].chunk) == (2, 1)
  curve_cases.assert_close(whole, split, 1e-7)


class _OnDisk:
  """An array-like that remembers how many rows were read at once."""

  def __init__(self, array):
    self._array = array
    self.shape, self.dtype = array.shape, array.dtype
    self.most = 0

  def __len__(self):
    return len(self._array)

  def __getitem__(self, rows):
    rows = self._array[rows]
    self.most = max(self.most, len(rows))
    return np.asarray(rows)


@pytest.mark.parametrize('backend', _BACKENDS)
def test_reads_from_disk_in_slices(backend, tmp_path, monkeypatch):
  monkeypatch.setattr(inputs, '_ROWS', 16)
  case = curve_cases.same(
    curve_cases.make(11, size=96, dim=40, real=True), np.arange(96)
  )
  case |= {'backend': backend, 'per_query': True}
  whole = curve.sweep(**case)
  disk = {}
  for name in ('query', 'aligned', 'new'):
    arrays.write(tmp_path / name, case[name], shard_rows=25)
    disk[name] = _OnDisk(arrays.ShardedArray(tmp_path / name))
  limit = {'numba': 40_000, 'jax': 4 * 50_000}[backend]
  result = curve.sweep(**(case | disk), memory_limit=limit)
  assert 1 < max(disk['aligned'].most, disk['new'].most) < 96
  curve_cases.assert_close(result, whole, 1e-6)
  memmap = np.memmap(tmp_path / 'new.raw', np.float32, 'w+', shape=(96, 40))
  memmap[:] = case['new']
  curve_cases.assert_close(curve.sweep(**(case | {'new': memmap})), whole, 1e-6)


@pytest.mark.parametrize('backend', _BACKENDS)
def test_processes_share_the_queries(backend, monkeypatch):
  case = curve_cases.make(12, queries=9) | {'backend': backend}
  alone = curve.sweep(**case)
  # One process after another: first to see what each brings, then again with
  # what all of them brought.
  brought = [[], [], []]
  monkeypatch.setattr(parallel, 'process_count', lambda: 3)

  def play(rank, gather):
    monkeypatch.setattr(parallel, 'process_index', lambda: rank)
    monkeypatch.setattr(parallel, 'gather', gather)
    return curve.sweep(**case, per_query=True, all_processes=True)

  for rank, mine in enumerate(brought):
    play(rank, lambda array, mine=mine: mine.append(array) or array[None])
  results = []
  for rank in range(3):
    together = map(np.stack, zip(*brought, strict=True))
    results.append(play(rank, lambda array, all=together: next(all)))
  shares = np.stack([x['per_query']['mAP'][0, 0] for x in results])
  np.testing.assert_array_equal(np.isfinite(shares).sum(axis=0), 1)
  for result in results:
    curve_cases.assert_close(result, alone, 1e-7)
    assert result['num_queries'] == alone['num_queries']


def test_products_count_what_scatters_count():
  rng = np.random.default_rng(13)
  aligned, new = jnp.asarray(rng.integers(0, 9, (2, 50)), jnp.float32)
  thresholds = jnp.array([1, 2, 4, 4, 7, jnp.inf, jnp.inf, jnp.inf])
  bucket = jnp.asarray(rng.integers(0, 6, 50))
  base, change = jax_counting.by_scatter(aligned, new, thresholds, 5)
  other_base, other_change = jax_counting.by_product(
    aligned, new, thresholds, 5
  )
  np.testing.assert_array_equal(base, other_base)
  np.testing.assert_array_equal(change(bucket), other_change(bucket))
  expected = [np.sum(np.asarray(aligned) >= t) for t in thresholds]
  np.testing.assert_array_equal(base, expected)


@pytest.mark.parametrize(
  'counter', [jax_counting.by_scatter, jax_counting.by_product]
)
def test_accelerators_count_queries_side_by_side(counter, monkeypatch):
  case = curve_cases.make(14, queries=30) | {'backend': 'jax'}
  expected = curve.sweep(**case)
  monkeypatch.setattr(parallel, 'is_cpu', lambda: False)
  monkeypatch.setattr(jax_counting, 'by_scatter', counter)
  curve_cases.assert_close(curve.sweep(**case), expected, 1e-7)


def test_auto_takes_what_the_device_needs(monkeypatch):
  case, taken = curve_cases.make(15), []
  count = numba_sweep.run
  for module, name in ((numba_sweep, 'numba'), (jax_sweep, 'jax')):

    def run(*args, name=name):
      taken.append(name)
      count(*args)

    monkeypatch.setattr(module, 'run', run)
  curve.sweep(**case)
  monkeypatch.setattr(parallel, 'is_cpu', lambda: False)
  curve.sweep(**case)
  assert taken == ['numba', 'jax']
