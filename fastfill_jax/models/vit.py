"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929)."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax import choices
from fastfill_jax.models import layers

POOLS = ('cls', 'mean')


def _attend(query, key, value, **_):
  # JAX's own keeps the scores and their softmax in float32 without widening
  # the operands of the products, as Linen's would.
  return jax.nn.dot_product_attention(query, key, value)


class _Block(nn.Module):
  """Attention and a perceptron, each behind a LayerNorm, each residual."""

  num_heads: int
  dtype: str

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    width, init = tokens.shape[-1], nn.initializers.xavier_uniform()
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=init)
    x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(tokens)
    x = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, kernel_init=init, attention_fn=_attend
    )(x, x)
    tokens = tokens + x
    x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(tokens)
    x = nn.gelu(dense(4 * width)(x), approximate=False)
    return tokens + dense(width)(x)


class ViT(nn.Module):
  """Maps images [batch, height, width, channel] to [batch, embedding].

  Attributes:
    width: channels of a token.
    depth: number of blocks.
    num_heads: attention heads of a block.
    embedding_dim: width of a last linear layer; None: as wide as a token.
    patch_size: side of a patch in pixels; 4 suits images of 32 pixels.
    pool: the embedding is the class token ('cls') or the mean of the patches
      ('mean', without a class token).
    dtype: what is computed in; the embedding is float32.
  """

  width: int
  depth: int
  num_heads: int
  embedding_dim: int | None = 128
  patch_size: int = 16
  pool: str = 'cls'
  dtype: str = 'float32'

  def __post_init__(self):
    choices.check('pool', self.pool, POOLS)
    if self.patch_size < 1:
      raise ValueError(f'patch_size={self.patch_size}; it must be positive.')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding, the same in training and out of it."""
    del train
    layers.check_images(images)
    size = self.patch_size
    if any(side % size for side in images.shape[1:3]):
      raise ValueError(
        f'patch_size={size} does not divide images of {images.shape[1:3]}.'
      )
    patches = nn.Conv(self.width, (size, size), (size, size), dtype=self.dtype)
    x = patches(images).reshape(len(images), -1, self.width)
    if self.pool == 'cls':
      cls = self.param('cls', nn.initializers.zeros, (1, 1, self.width))
      cls = jnp.tile(cls.astype(x.dtype), (x.shape[0], 1, 1))
      x = jnp.concatenate([cls, x], axis=1)
    init, shape = nn.initializers.normal(0.02), (1, *x.shape[1:])
    x = x + self.param('positions', init, shape).astype(x.dtype)
    for _ in range(self.depth):
      x = _Block(self.num_heads, self.dtype)(x)
    x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)
    x = x[:, 0] if self.pool == 'cls' else jnp.mean(x, 1, dtype=jnp.float32)
    if self.embedding_dim is not None:
      x = nn.Dense(self.embedding_dim, dtype=self.dtype)(x)
    return x.astype(jnp.float32)
