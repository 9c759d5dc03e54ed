"""Small encoders for small images, such as the 8x8 digits."""

from collections.abc import Sequence
from typing import ClassVar

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
    layers.check_widths(self.widths, self.embedding_dim)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding; `train` uses the batch's own statistics."""
    layers.check_images(images)
    x = images.reshape(len(images), -1) if self.flat else images
    for i, width in enumerate(self.widths):
      x = self._layer(i, width, not self.batch_norm)(x)
      if self.batch_norm:
        x = layers.batch_norm(self, train, dtype=self.dtype)(x)
      x = nn.relu(x)
    embed = nn.Dense(self.embedding_dim, dtype=self.dtype)
    return embed(x.reshape(len(x), -1)).astype(jnp.float32)


class MLP(_Small):
  """A perceptron on the flattened image [batch, height, width, channel]."""

  widths: Sequence[int] = (64,)
  flat: ClassVar[bool] = True

  def _layer(self, i, width, use_bias):
    init = nn.initializers.he_normal()
    return nn.Dense(
      width, use_bias=use_bias, kernel_init=init, dtype=self.dtype
    )


class CNN(_Small):
  """3x3 convolutions, halving the image from the second on."""

  widths: Sequence[int] = (32, 64)
  flat: ClassVar[bool] = False

  def _layer(self, i, width, use_bias):
    return nn.Conv(
      width,
      (3, 3),
      2 if i else 1,
      use_bias=use_bias,
      kernel_init=layers.he_normal,
      dtype=self.dtype,
    )
