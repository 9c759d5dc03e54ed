"""Small encoders for small images, such as the 8x8 digits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax.models import layers


class _Small(nn.Module):
  """Hidden layers of `widths`, each ended by ReLU; then a linear embedding.

  Attributes:
    widths: width of each hidden layer.
    embedding_dim: width of the embedding.
    batch_norm: whether BatchNorm stands before every ReLU.
    dtype: what is computed in; the embedding is float32.
    axis_name: device axis of BatchNorm's statistics.
  """

  widths: Sequence[int]
  embedding_dim: int = 128
  batch_norm: bool = True
  dtype: str = 'float32'
  axis_name: str | None = None

  def __post_init__(self):
    if not all(width > 0 for width in self.widths):
      raise ValueError(f'widths={self.widths}; all must be positive.')
    if self.embedding_dim is None:
      raise ValueError('embedding_dim=None; it must be a positive width.')
    super().__post_init__()

  def _activate(self, x, train):
    if self.batch_norm:
      x = layers.BatchNorm(
        use_running_average=not train,
        dtype=self.dtype,
        axis_name=self.axis_name,
      )(x)
    return nn.relu(x)

  def _embed(self, x):
    return nn.Dense(self.embedding_dim, dtype=self.dtype)(x).astype(jnp.float32)


class MLP(_Small):
  """A perceptron on the flattened image [batch, height, width, channel]."""

  widths: Sequence[int] = (64,)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding; `train` uses the batch's own statistics."""
    layers.check_images(images)
    x = images.reshape(images.shape[0], -1)
    for width in self.widths:
      x = nn.Dense(
        width,
        use_bias=not self.batch_norm,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
      )(x)
      x = self._activate(x, train)
    return self._embed(x)


class CNN(_Small):
  """3x3 convolutions, halving the image from the second on."""

  widths: Sequence[int] = (32, 64)

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding; `train` uses the batch's own statistics."""
    layers.check_images(images)
    x = images
    for i, width in enumerate(self.widths):
      stride = 1 if i == 0 else 2
      x = nn.Conv(
        width,
        (3, 3),
        (stride, stride),
        use_bias=not self.batch_norm,
        kernel_init=layers.he_normal,
        dtype=self.dtype,
      )(x)
      x = self._activate(x, train)
    return self._embed(x.reshape(x.shape[0], -1))
