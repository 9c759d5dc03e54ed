import jax
import models_inputs
import numpy as np
import pytest

from fastfill_jax.models import resnet


def convolve(x, kernel, stride):
  """Plain convolution [height, width, channel] with symmetric padding."""
  size = len(kernel)
  x = np.pad(x, [(size // 2,) * 2, (size // 2,) * 2, (0, 0)])
  rows = range(0, x.shape[0] - size + 1, stride)
  columns = range(0, x.shape[1] - size + 1, stride)
  return np.array(
    [
      [np.tensordot(x[i : i + size, j : j + size], kernel, 3) for j in columns]
      for i in rows
    ]
  )


def plain_resnet(variables, image, stem, blocks):
  """The embedding of one image; blocks are lists of (size, stride)."""
  variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)

  def convolve_and_norm(x, stride, path, i):
    params, stats = variables['params'], variables['batch_stats']
    for key in path:
      params, stats = params[key], stats[key]
    x = convolve(x, params[f'Conv_{i}']['kernel'], stride)
    params, stats = params[f'BatchNorm_{i}'], stats[f'BatchNorm_{i}']
    x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
    return x * params['scale'] + params['bias']

  stride = 2 if stem == 'imagenet' else 1
  x = np.maximum(convolve_and_norm(image, stride, (), 0), 0)
  if stem == 'imagenet':
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    side = (len(x) + 1) // 2
    x = np.array(
      [
        [
          padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1))
          for j in range(side)
        ]
        for i in range(side)
      ]
    )
  for b, strides in enumerate(blocks):
    path, y = (f'_Block_{b}',), x
    for i, stride in enumerate(strides):
      y = convolve_and_norm(np.maximum(y, 0) if i else y, stride, path, i)
    if y.shape != x.shape:
      x = convolve_and_norm(x, max(strides), path, len(strides))
    x = np.maximum(x + y, 0)
  return x.mean((0, 1))


@pytest.mark.parametrize(
  'stem, bottleneck, strides',
  [
    # Version 1.5: of a bottleneck, the 3x3 convolution has the stride.
    ('small', True, [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 1, 1)]),
    ('imagenet', False, [(1, 1), (1, 1), (2, 1), (1, 1)]),
  ],
)
def test_resnet_is_its_plain_statement(stem, bottleneck, strides):
  encoder = resnet.ResNet(
    stage_sizes=(2, 2),
    bottleneck=bottleneck,
    embedding_dim=3,
    stem=stem,
    width=2,
  )
  images = models_inputs.make((2, 16, 16, 3))
  variables = models_inputs.fill(encoder, images)
  embedding = jax.jit(encoder.apply)(variables, images)
  for got, image in zip(embedding, images, strict=True):
    np.testing.assert_allclose(
      got, plain_resnet(variables, image, stem, strides), rtol=1e-4, atol=1e-5
    )
  assert (embedding >= 0).all()
