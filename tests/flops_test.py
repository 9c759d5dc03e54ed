"""Counted work against hand-worked sums and XLA's own analysis."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fastfill_jax import flops
from fastfill_jax.models import resnet, vit


def shape(*sizes, dtype='float32'):
  return jax.ShapeDtypeStruct(sizes, dtype)


def xla_flops(function, *args):
  return jax.jit(function).lower(*args).cost_analysis()['flops']


def test_matrix_product():
  work = flops.count(jnp.dot, shape(3, 5), shape(5, 7))
  assert work == flops.Work(2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))
  batched = flops.count(jnp.matmul, shape(2, 3, 5), shape(2, 5, 7))
  assert batched.flops == 2 * work.flops
  half = flops.count(jnp.dot, *2 * [shape(4, 4, dtype='bfloat16')])
  assert half.bytes == 2 * 3 * 4 * 4


def test_convolution_by_hand():
  convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  work = flops.count(convolve, shape(2, 7, 7, 5), shape(3, 3, 5, 4))
  # Along a side of 7, the inner 5 places meet 3 weights, the border ones 2.
  assert work.flops == 2 * 2 * 4 * 5 * (5 * 3 + 2 * 2) ** 2
  elements = 2 * 7 * 7 * 5 + 3 * 3 * 5 * 4 + 2 * 7 * 7 * 4
  assert work.bytes == 4 * elements


@pytest.mark.parametrize(
  'options',
  [
    {'window_strides': (2, 1), 'padding': 'SAME'},
    {'window_strides': (1, 2), 'padding': 'VALID'},
    {'window_strides': (1, 1), 'padding': ((3, 0), (1, 4))},
    {'lhs_dilation': (2, 3), 'padding': ((2, 2), (1, 1))},
    {'rhs_dilation': (2, 3), 'padding': 'SAME'},
    {'feature_group_count': 2, 'padding': 'SAME'},
  ],
  ids=str,
)
def test_convolutions_as_xla_counts_them(options):
  options = {'window_strides': (1, 1)} | options
  groups = options.get('feature_group_count', 1)
  convolve = functools.partial(
    lax.conv_general_dilated,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **options,
  )
  args = shape(2, 9, 11, 6), shape(3, 3, 6 // groups, 4)
  assert flops.count(convolve, *args).flops == xla_flops(convolve, *args)

  def squares(images, kernel):
    return jnp.sum(convolve(images, kernel) ** 2)

  gradients = jax.grad(squares, argnums=(0, 1))
  # The squares and their sum add a little in XLA's count.
  counted = flops.count(gradients, *args).flops
  assert counted == pytest.approx(xla_flops(gradients, *args), rel=0.02)


def test_control_flow():
  matrix = shape(4, 4)
  once = flops.count(jnp.dot, matrix, matrix)

  def scanned(x):
    return lax.scan(lambda carry, _: (carry @ x, None), x, length=6)[0]

  def chosen(x):
    return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  def unbounded(x):
    return lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x)

  assert flops.count(scanned, matrix) == once * 6
  assert flops.count(chosen, matrix) == once * 2
  assert flops.count(jax.jit(jnp.dot), matrix, matrix) == once
  with pytest.raises(ValueError, match='unknown length'):
    flops.count(unbounded, matrix)


@pytest.mark.parametrize(
  ('network', 'size'),
  [
    (resnet.ResNet((1, 1), bottleneck=False, width=32), 64),
    (resnet.ResNet((1, 1), bottleneck=True, width=32, stem='small'), 32),
    (vit.ViT(width=128, depth=1, num_heads=4), 64),
  ],
  ids=['basic', 'bottleneck', 'transformer'],
)
def test_encoders_as_xla_counts_them(network, size):
  images = shape(2, size, size, 3)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)

  def loss(params, rest, images):
    embedding, _ = network.apply(
      {'params': params, **rest}, images, train=True, mutable=['batch_stats']
    )
    return jnp.sum(embedding)

  params = variables.pop('params')
  args = params, variables, images
  step = jax.value_and_grad(loss)
  # XLA counts what lies between the products too: the more, the narrower.
  ours, xla = flops.count(step, *args).flops, xla_flops(step, *args)
  assert 0.93 * xla < ours < xla
