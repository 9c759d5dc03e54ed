import re

import jax
import jax.numpy as jnp
import models_inputs
import numpy as np
import pytest

from fastfill_jax import models

SMALL = ('shallow', 'mlp', 'cnn')


@pytest.mark.parametrize(
  'name, expected',
  [  # the networks' published counts, less 1,000 x (width + 1) of classifier
    ('resnet18', 11_689_512 - 1000 * 513),
    ('resnet34', 21_797_672 - 1000 * 513),
    ('resnet50', 25_557_032 - 1000 * 2049),
    ('resnet101', 44_549_160 - 1000 * 2049),
    ('vit_s16', 22_050_664 - 1000 * 385),
    ('vit_b16', 86_567_656 - 1000 * 769),
    ('vit_l16', 304_326_632 - 1000 * 1025),
  ],
)
def test_parameter_counts_are_the_published_ones(name, expected):
  encoder = models.make_encoder(name, embedding_dim=None)
  assert models_inputs.count(encoder, (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(
  'name, wide, narrow',
  [  # last convolution, BatchNorm, and of ResNet-18 and 50 the shortcut
    (
      'resnet18',
      9 * 512 * 512 + 2 * 512,
      9 * 512 * 128 + 2 * 128 + 512 * 128 + 2 * 128,
    ),
    (
      'resnet50',
      512 * 2048 + 2 * 2048,
      512 * 128 + 2 * 128 + 2048 * 128 + 2 * 128,
    ),
  ],
)
def test_only_the_last_block_is_narrow(name, wide, narrow):
  plain, ours = (
    models_inputs.count(models.make_encoder(name, **options), (1, 64, 64, 3))
    for options in ({'embedding_dim': None}, {})
  )
  assert ours == plain - wide + narrow


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'vit_s16', *SMALL])
def test_every_encoder_is_float32_at_its_borders(name):
  encoder = models.make_encoder(name, embedding_dim=7, dtype='bfloat16')
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  embedding, variables = jax.eval_shape(
    encoder.init_with_output, jax.random.key(0), images
  )
  assert embedding.shape == (2, 7)
  assert embedding.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_mlp_by_hand():
  encoder = models.make_encoder(
    'mlp', embedding_dim=1, widths=(2,), batch_norm=False
  )
  images = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
  params = {
    'Dense_0': {
      'kernel': jnp.array([[1.0, -1.0], [3.0, -1.0]]),
      'bias': jnp.array([0.5, 0.5]),
    },
    'Dense_1': {'kernel': jnp.array([[2.0], [5.0]]), 'bias': jnp.array([1.0])},
  }
  # The second hidden unit, 0.5 - 1 - 2, is cut off.
  np.testing.assert_allclose(
    encoder.apply({'params': params}, images),
    [[2 * (0.5 + 1 * 1 + 3 * 2) + 1]],
  )


def test_training_averages_statistics_and_evaluation_reads_them():
  encoder = models.make_encoder('mlp', embedding_dim=2, widths=(3,))
  images = models_inputs.make((16, 2, 2, 1))
  variables = models_inputs.fill(encoder, images)
  hidden = images.reshape(16, 4) @ variables['params']['Dense_0']['kernel']
  before = variables['batch_stats']['BatchNorm_0']
  _, changed = encoder.apply(variables, images, True, mutable=['batch_stats'])
  after = changed['batch_stats']['BatchNorm_0']
  for name, of_batch in (('mean', hidden.mean(0)), ('var', hidden.var(0))):
    np.testing.assert_allclose(
      after[name], 0.9 * before[name] + 0.1 * of_batch, rtol=1e-5
    )
  _, unchanged = encoder.apply(
    variables, images, False, mutable=['batch_stats']
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    unchanged['batch_stats'],
    variables['batch_stats'],
  )


def test_batch_norm_on_four_devices_is_that_of_one():
  images = models_inputs.make((8, 4, 4, 1))

  def make(axis_name):
    return models.make_encoder(
      'cnn', embedding_dim=2, widths=(3,), axis_name=axis_name
    )

  def step(encoder, variables, images):
    def loss(params):
      embedding, changed = encoder.apply(
        variables | {'params': params}, images, True, mutable=['batch_stats']
      )
      return jnp.mean(embedding[:, 0] ** 3), changed['batch_stats']

    return jax.grad(loss, has_aux=True)(variables['params'])

  variables = models_inputs.fill(make(None), images)
  expected = jax.jit(lambda v, x: step(make(None), v, x))(variables, images)
  mapped = jax.pmap(
    lambda v, x: jax.lax.pmean(step(make('device'), v, x), 'device'),
    axis_name='device',
    in_axes=(None, 0),
  )
  got = jax.block_until_ready(mapped(variables, images.reshape(4, 2, 4, 4, 1)))
  for copy in range(4):
    jax.tree.map(
      lambda a, b, copy=copy: np.testing.assert_allclose(
        a[copy], b, rtol=1e-4, atol=1e-6
      ),
      got,
      expected,
    )


@pytest.mark.parametrize(
  'dtype, short', [('float32', 'f32'), ('bfloat16', 'bf16')]
)
@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'vit_s16', *SMALL])
def test_every_product_is_computed_in_the_dtype(name, dtype, short):
  encoder = models.make_encoder(name, dtype=dtype)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), images)
  program = jax.jit(encoder.apply).lower(variables, images).as_text()
  products = re.findall(
    r'stablehlo\.(?:convolution|dot_general).*: \((.*)\) ->', program
  )
  assert products
  dtypes = {
    dtype for types in products for dtype in re.findall(r'x(b?f\d+)>', types)
  }
  assert dtypes == {short}


def test_options_have_their_effect():
  def count(name, **options):
    encoder = models.make_encoder(name, **options)
    return models_inputs.count(encoder, (1, 32, 32, 3))

  stems = count('resnet18'), count('resnet18', stem='small')
  assert stems[0] - stems[1] == (49 - 9) * 3 * 64
  norms = [count('mlp', widths=(9,), batch_norm=x) for x in (True, False)]
  assert norms[0] - norms[1] == 2 * 9 - 9  # scale and bias, for a bias


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'name': 'resnet5'}, "encoder 'resnet5', did you mean 'resnet50'"),
    ({'name': 'resnet18', 'stm': 'small'}, "'stm', did you mean 'stem'"),
    ({'name': 'resnet18', 'stage_sizes': (1,)}, 'known: stem, width'),
    ({'name': 'resnet18', 'stem': 'tiny'}, "'tiny'.*imagenet"),
    ({'name': 'resnet18', 'width': 0}, 'width=0'),
    ({'name': 'resnet18', 'dtype': 'float16'}, 'float16.*bfloat16'),
    ({'name': 'resnet18', 'embedding_dim': 0}, 'embedding_dim=0'),
    ({'name': 'vit_s16', 'pool': 'max'}, "'max'.*cls"),
    ({'name': 'vit_s16', 'patch_size': 0}, 'patch_size=0'),
    ({'name': 'mlp', 'embedding_dim': None}, 'embedding_dim=None'),
    ({'name': 'mlp', 'widths': (4, 0)}, r'widths=\(4, 0\)'),
    ({'name': 'shallow', 'widths': ()}, r'widths=\(\)'),
    ({'name': 'shallow', 'embedding_dim': None}, 'embedding_dim=None'),
  ],
)
def test_a_bad_encoder_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    models.make_encoder(**arguments)


@pytest.mark.parametrize(
  'name, shape, dtype, message',
  [
    ('cnn', (2, 8, 8), jnp.float32, r'float32 \(2, 8, 8\)'),
    ('resnet18', (2, 8, 8, 3), jnp.uint8, 'uint8'),
    ('vit_s16', (2, 24, 24, 3), jnp.float32, 'patch_size=16 does not divide'),
  ],
)
def test_bad_images_are_named(name, shape, dtype, message):
  encoder = models.make_encoder(name)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      encoder.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype)
    )
