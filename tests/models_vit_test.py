import jax
import jax.numpy as jnp
import models_inputs
import numpy as np
import pytest

from fastfill_jax.models import vit


def plain_layer_norm(x, params):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * params['scale'] + params['bias']


def plain_vit(params, image, size, num_heads, pool):
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  rows, columns = np.array(image.shape[:2]) // size
  tokens = np.array(
    [
      np.tensordot(
        image[i * size : (i + 1) * size, j * size : (j + 1) * size],
        params['Conv_0']['kernel'],
        3,
      )
      + params['Conv_0']['bias']
      for i in range(rows)
      for j in range(columns)
    ]
  )
  if pool == 'cls':
    tokens = np.concatenate([params['cls'][0], tokens])
  tokens = tokens + params['positions'][0]
  block = params['_Block_0']
  x = plain_layer_norm(tokens, block['LayerNorm_0'])
  attention = block['MultiHeadDotProductAttention_0']
  query, key, value = (
    np.einsum('tw,whd->htd', x, attention[name]['kernel'])
    + attention[name]['bias'][:, None]
    for name in ('query', 'key', 'value')
  )
  scores = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]))
  mixed = scores / scores.sum(-1, keepdims=True) @ value
  tokens = tokens + (
    np.einsum('htd,hdw->tw', mixed, attention['out']['kernel'])
    + attention['out']['bias']
  )
  x = plain_layer_norm(tokens, block['LayerNorm_1'])
  x = x @ block['Dense_0']['kernel'] + block['Dense_0']['bias']
  x = np.array(jax.nn.gelu(jnp.array(x), approximate=False), np.float64)
  tokens = tokens + x @ block['Dense_1']['kernel'] + block['Dense_1']['bias']
  tokens = plain_layer_norm(tokens, params['LayerNorm_0'])
  x = tokens[0] if pool == 'cls' else tokens.mean(0)
  return x @ params['Dense_0']['kernel'] + params['Dense_0']['bias']


@pytest.mark.parametrize('pool', vit.POOLS)
def test_vit_is_its_plain_statement(pool):
  encoder = vit.ViT(
    width=4, depth=1, num_heads=2, embedding_dim=3, patch_size=4, pool=pool
  )
  images = models_inputs.make((2, 8, 12, 3))
  variables = models_inputs.fill(encoder, images)
  embedding = jax.jit(encoder.apply)(variables, images)
  for got, image in zip(embedding, np.asarray(images), strict=True):
    np.testing.assert_allclose(
      got,
      plain_vit(variables['params'], image, 4, 2, pool),
      rtol=1e-4,
      atol=1e-6,
    )
