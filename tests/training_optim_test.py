import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fastfill_jax.training import optim


def test_schedule_warms_up_then_falls_by_a_cosine():
  schedule = optim.make_schedule(2.0, num_steps=110, warmup_steps=10)
  values = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
  np.testing.assert_allclose(values, [0, 1, 2, 1, 0], atol=1e-6)


def test_sgd_with_momentum_and_decay_in_the_gradient():
  optimizer = optim.make_optimizer(
    'sgd', 0.1, num_steps=10**9, momentum=0.875, weight_decay=0.5
  )
  w, buffer, state = np.array([2.0]), np.zeros(1), None
  params = jnp.array([2.0])
  state = optimizer.init(params)
  for gradient in (1.0, -3.0, 0.5):
    updates, state = optimizer.update(jnp.array([gradient]), state, params)
    params = optax.apply_updates(params, updates)
    buffer = 0.875 * buffer + (gradient + 0.5 * w)
    w = w - 0.1 * buffer
  np.testing.assert_allclose(params, w, rtol=1e-6)


def test_adam_with_decay_in_the_gradient():
  optimizer = optim.make_optimizer(
    'adam', 0.1, num_steps=10**9, weight_decay=0.5
  )
  params = jnp.array([2.0])
  updates, _ = optimizer.update(
    jnp.array([1.0]), optimizer.init(params), params
  )
  # Adam's first step is the rate times the gradient's sign.
  np.testing.assert_allclose(updates, [-0.1], rtol=1e-4)
  updates, _ = optimizer.update(
    jnp.array([-2.0]), optimizer.init(params), params
  )
  np.testing.assert_allclose(updates, [0.1], rtol=1e-1)  # -2 + 0.5 * 2 < 0


def test_muon_turns_a_convolution_as_a_matrix_and_scales_as_adam():
  optimizer = optim.make_optimizer('muon', 0.1, num_steps=10**9, momentum=0.9)
  generator = np.random.default_rng(0)
  params = {'kernel': np.zeros((3, 3, 4, 8)), 'bias': np.zeros(8)}
  gradient = jax.tree.map(lambda x: generator.normal(size=x.shape), params)
  params, gradient = jax.tree.map(jnp.float32, (params, gradient))
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  # Adam's first step, of the length 0.01 or, looking ahead, a half more.
  np.testing.assert_array_equal(
    np.sign(updates['bias']), -np.sign(gradient['bias'])
  )
  assert np.all(np.abs(updates['bias']) < 0.016)
  assert np.all(np.abs(updates['bias']) > 0.009)
  got = np.linalg.svd(np.reshape(updates['kernel'], (36, 8)), compute_uv=False)
  # Orthogonal columns would all be 0.1 x 0.2 sqrt(36) long; five steps of
  # Newton and Schulz leave them within 0.7 to 1.2 of that.
  assert np.all(got > 0.68 * 0.1 * 0.2 * 6)
  assert np.all(got < 1.2 * 0.1 * 0.2 * 6)
  assert np.sum(updates['kernel'] * gradient['kernel']) < 0


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'name': 'sdg', 'learning_rate': 1}, "'sdg'"),
    ({'name': 'sgd', 'learning_rate': 0}, 'learning_rate > 0'),
    ({'name': 'sgd', 'learning_rate': 1, 'momentum': 1}, 'momentum'),
    ({'name': 'adam', 'learning_rate': 1, 'warmup_steps': 5}, 'warmup_steps=5'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    optim.make_optimizer(num_steps=5, **arguments)
