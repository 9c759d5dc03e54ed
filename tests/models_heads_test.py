import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax.models import heads


def unit(angles):
  return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_linear_has_a_kernel_and_nothing_else():
  embedding = jnp.array([[1.0, 2.0]])
  head = heads.Linear(num_classes=3)
  variables = head.init(jax.random.key(0), embedding)
  assert jax.tree.map(jnp.shape, variables) == {'params': {'kernel': (2, 3)}}
  kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
  logits = head.apply({'params': {'kernel': kernel}}, embedding, jnp.array([0]))
  np.testing.assert_allclose(logits, [[1, 2, -1 + 6]])


def test_arcface_adds_the_margin_to_the_own_angle_alone():
  # Angles between embeddings and the two classes, at 0 and at 2 radians.
  angles = np.array([0.3, 1.0, 1.7, 2.5])
  kernel = 5 * unit(np.array([0.0, 2.0])).T
  embedding = unit(angles) * np.array([[1.0], [2.0], [3.0], [4.0]])
  labels = np.array([0, 1, 0, 1])
  head = heads.ArcFace(num_classes=2, scale=10.0, margin=0.5)
  variables = {'params': {'kernel': jnp.array(kernel, jnp.float32)}}
  own = np.abs(angles - 2 * labels)
  other = np.abs(angles - 2 * (1 - labels))
  expected = np.zeros((4, 2))
  expected[np.arange(4), labels] = 10 * np.cos(own + 0.5)
  expected[np.arange(4), 1 - labels] = 10 * np.cos(other)
  np.testing.assert_allclose(
    head.apply(variables, jnp.array(embedding), jnp.array(labels)),
    expected,
    rtol=1e-4,
    atol=1e-5,
  )
  # Without labels, as in prediction, there is no margin.
  expected[np.arange(4), labels] = 10 * np.cos(own)
  np.testing.assert_allclose(
    head.apply(variables, jnp.array(embedding)), expected, rtol=1e-4, atol=1e-5
  )


def test_arcface_falls_with_the_angle_up_to_pi():
  angles = np.linspace(0, np.pi, 200)
  head = heads.ArcFace(num_classes=1, scale=1.0, margin=0.5)
  variables = {'params': {'kernel': jnp.array([[1.0], [0.0]])}}
  logits = head.apply(
    variables, jnp.array(unit(angles)), jnp.zeros(200, jnp.int32)
  )
  assert (np.diff(logits[:, 0]) < 0).all()
  np.testing.assert_allclose(
    logits[-1, 0], np.cos(np.pi) - 0.5 * np.sin(0.5), rtol=1e-5
  )


@pytest.mark.parametrize(
  'embedding', [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], ids=['zero', '0', 'pi']
)
def test_arcface_has_finite_slopes_where_it_is_singular(embedding):
  head = heads.ArcFace(num_classes=2)
  variables = {'params': {'kernel': jnp.eye(2)}}
  gradient = jax.jit(
    jax.grad(lambda x: head.apply(variables, x, jnp.array([0])).sum())
  )(jnp.array([embedding]))
  assert np.isfinite(gradient).all()


def test_projection_has_one_hidden_layer_as_wide_as_the_embedding():
  embedding = jnp.array([[1.0, -2.0]])
  head = heads.Projection(dim=1)
  params = {
    'hidden': {'kernel': jnp.eye(2), 'bias': jnp.array([0.5, 0.5])},
    'out': {'kernel': jnp.array([[2.0], [7.0]])},
  }
  shapes = jax.eval_shape(head.init, jax.random.key(0), embedding)['params']
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
  np.testing.assert_allclose(
    head.apply({'params': params}, embedding), [[2 * (1 + 0.5) + 7 * 0]]
  )


@pytest.mark.parametrize(
  'options, message',
  [({'scale': 0.0}, 'scale=0.0'), ({'margin': 3.2}, 'margin=3.2')],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    heads.ArcFace(num_classes=2, **options)
