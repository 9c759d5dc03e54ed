import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import parallel


def test_shard_and_unshard_are_inverse():
  batch = {'x': np.arange(24).reshape(8, 3), 'y': np.arange(8)}
  sharded = parallel.shard(batch)
  assert sharded['x'].shape == (4, 2, 3)
  for name, array in parallel.unshard(sharded).items():
    np.testing.assert_array_equal(array, batch[name])


def test_mean_is_over_devices():
  def step(offset, x):
    return parallel.mean(jnp.sum(x) + offset)

  mapped = parallel.pmap(step, in_axes=(None, 0), out_axes=None)
  value = mapped(jnp.float32(1), parallel.shard(np.arange(8.0, dtype='f4')))
  assert float(value) == (0 + 1 + 2 + 3 + 4 + 5 + 6 + 7) / 4 + 1


@pytest.mark.parametrize('batch_size', [0, 6, -4])
def test_a_batch_must_divide_over_the_devices(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size} .* 4 devices'):
    parallel.check_batch_size(batch_size)
  parallel.check_batch_size(8)


def test_one_process_gathers_itself():
  values = np.array([2**40 + 1, -3])
  np.testing.assert_array_equal(parallel.gather(values), values[None])


def test_one_process_raises_its_own_error():
  with parallel.together():
    pass
  with pytest.raises(OSError, match='gone'), parallel.together():
    raise OSError('gone')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('host:1', None, 0), 'go together, got host:1, None, 0'),
    ((None, 2, 0), 'go together, got None, 2, 0'),
    (('host:1', 2, 2), r'process_id=2 is not in \[0, num_processes=2\)'),
  ],
)
def test_initialize_checks_its_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    parallel.initialize(*arguments)


def test_sigterm_is_noticed():
  before = signal.getsignal(signal.SIGTERM)
  try:
    preemption = parallel.Preemption()
    assert not preemption.requested(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested(1)
    with pytest.raises(parallel.Preempted, match='here stopped'):
      preemption.raise_if_requested('here')
  finally:
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
  'name',
  ['log_every', 'checkpoint_every', 'evaluate_every', 'embed_batch_size'],
)
def test_what_is_out_of_range_is_named(name):
  with pytest.raises(ValueError, match=f'run.{name}=0; it must be at least 1'):
    parallel.How(None, **{name: 0})
