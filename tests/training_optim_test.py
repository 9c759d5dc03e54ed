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
