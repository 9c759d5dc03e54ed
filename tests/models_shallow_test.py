import jax
import jax.numpy as jnp
import models_inputs
import numpy as np
import pytest

from fastfill_jax import models
from fastfill_jax.models import shallow


def _direct(images, kernel):
  return jax.lax.conv_general_dilated(
    images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.mark.parametrize('size', [(8, 8), (7, 4), (1, 3)])
def test_winograd_is_the_convolution_and_has_its_gradients(size):
  images = models_inputs.make((2, *size, 3))
  kernel = models_inputs.make((3, 3, 3, 5), seed=2)
  weights = models_inputs.make((2, *size, 5), seed=3)

  def value_and_grads(convolve):
    def loss(images, kernel):
      out = convolve(images, kernel)
      return jnp.sum(weights * out**2), out

    grads, out = jax.grad(loss, (0, 1), has_aux=True)(images, kernel)
    return out, *grads

  for got, expected in zip(
    value_and_grads(shallow.winograd), value_and_grads(_direct), strict=True
  ):
    np.testing.assert_allclose(
      got, expected, atol=1e-5 * np.abs(expected).max()
    )


def test_both_ways_are_one_network():
  direct, products = (
    models.make_encoder('shallow', widths=(4, 6), products=x)
    for x in (False, True)
  )
  images = models_inputs.make((2, 16, 16, 3))
  variables = models_inputs.fill(direct, images)
  np.testing.assert_allclose(
    products.apply(variables, images),
    direct.apply(variables, images),
    rtol=1e-4,
    atol=1e-4,
  )
