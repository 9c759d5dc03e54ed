"""A shallow, wide residual network for images of 32 pixels, on CPUs.

Of the family that speed records on CIFAR are set with (Page's DAWNBench
ResNet-9): few, wide layers on small maps learn most per operation. On CPUs it
trains three times as fast when convolutions are written as products of
matrices, the 3x3 ones as Winograd's (Lavin and Gray, arXiv 1509.09308), of 2.25
times fewer multiplications.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fastfill_jax.models import layers

# F(2x2, 3x3): 4 x 4 inputs and a 3 x 3 kernel to 2 x 2 outputs.
_OF_INPUT = np.float32(
  [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
)
_OF_KERNEL = np.float32([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_OF_OUTPUT = np.float32([[1, 1, 1, 0], [0, 1, -1, -1]])


def winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution of stride 1, padded by zeros to the same size.

  Args:
    images: [batch, height, width, channel].
    kernel: [3, 3, channel, output channel].
  """
  batch, height, width = images.shape[:3]
  rows, columns = -(-height // 2), -(-width // 2)
  padded = jnp.pad(
    images,
    ((0, 0), (1, 1 + 2 * rows - height), (1, 1 + 2 * columns - width), (0, 0)),
  )
  # Every tile is 4 x 4 and begins 2 behind the one before; a list entry has
  # one position of all tiles.
  tiles = [
    [
      padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
      for j in range(4)
    ]
    for i in range(4)
  ]
  tiles = _both_sides(_OF_INPUT, tiles)
  kernels = jnp.einsum(
    'ai,ijco,bj->abco', _OF_KERNEL, kernel, _OF_KERNEL
  ).astype(images.dtype)
  # Matrices: XLA:CPU is slow at products of arrays of more dimensions.
  products = [
    [
      (tiles[i][j].reshape(-1, images.shape[-1]) @ kernels[i, j]).reshape(
        batch, rows, columns, -1
      )
      for j in range(4)
    ]
    for i in range(4)
  ]
  outputs = _both_sides(_OF_OUTPUT, products)
  out = jnp.stack([jnp.stack(row, axis=3) for row in outputs], axis=2)
  out = out.reshape(batch, 2 * rows, 2 * columns, kernel.shape[-1])
  return out[:, :height, :width]


def _both_sides(matrix, tiles):
  """Computes matrix @ tile @ matrix.T by the few sums that it is."""

  def combine(weights, arrays):
    pairs = zip(weights, arrays, strict=True)
    return sum(float(w) * x if w != 1 else x for w, x in pairs if w)

  tiles = [
    [combine(weights, column) for column in zip(*tiles, strict=True)]
    for weights in matrix
  ]
  return [[combine(weights, row) for weights in matrix] for row in tiles]


def patches(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """A convolution as one product, padded by (size - 1) // 2 zeros a side.

  Args:
    images: [batch, height, width, channel].
    kernel: [size, size, channel, output channel].
    stride: In both directions.
  """
  size, padding = len(kernel), (len(kernel) - 1) // 2
  padded = jnp.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  height, width = (x - size + 1 for x in padded.shape[1:3])
  columns = jnp.concatenate(
    [
      padded[:, i : i + height : stride, j : j + width : stride]
      for i in range(size)
      for j in range(size)
    ],
    axis=-1,
  )
  kernel = kernel.reshape(-1, kernel.shape[-1]).astype(images.dtype)
  out = columns.reshape(-1, columns.shape[-1]) @ kernel
  return out.reshape(*columns.shape[:3], -1)


class _Convolution(nn.Module):
  """What nn.Conv computes, without a bias, as products."""

  channels: int
  size: int
  stride: int
  dtype: str

  @nn.compact
  def __call__(self, images):
    shape = self.size, self.size, images.shape[-1], self.channels
    kernel = self.param('kernel', layers.he_normal, shape)
    images = images.astype(self.dtype)
    if (self.size, self.stride) == (3, 1):
      return winograd(images, kernel)
    return patches(images, kernel, self.stride)


class Shallow(nn.Module):
  """Maps images [batch, height, width, channel] to [batch, embedding].

  A 4x4 convolution of stride 2, then by block a 3x3 convolution and a second
  one around a shortcut, the image halved before all blocks but the first; then
  the embedding's 1x1 convolution, whose ReLU is averaged over the image.

  Attributes:
    widths: channels of each block; the first convolution has the first one's.
    embedding_dim: width of the embedding.
    products: whether convolutions are written as products of matrices; False
      leaves them to XLA, which knows better on accelerators.
    dtype: what is computed in; the embedding is float32.
    axis_name: device axis of BatchNorm's statistics.
  """

  widths: Sequence[int] = (64, 128, 256)
  embedding_dim: int = 128
  products: bool = False
  dtype: str = 'float32'
  axis_name: str | None = None

  def __post_init__(self):
    if not self.widths:
      raise ValueError(f'widths={self.widths}; give at least one.')
    layers.check_widths(self.widths, self.embedding_dim)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding; `train` uses the batch's own statistics."""
    layers.check_images(images)

    def convolve(x, channels, size, name, stride=1):
      if self.products:
        return _Convolution(channels, size, stride, self.dtype, name=name)(x)
      return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        padding=(size - 1) // 2,
        use_bias=False,
        kernel_init=layers.he_normal,
        dtype=self.dtype,
        name=name,
      )(x)

    def activate(x):
      return nn.relu(layers.batch_norm(self, train, dtype=self.dtype)(x))

    x = convolve(images, self.widths[0], 4, 'stem', stride=2)
    for i, channels in enumerate(self.widths):
      x = nn.max_pool(x, (2, 2), (2, 2)) if i else x
      x = activate(convolve(x, channels, 3, f'block{i}_0'))
      x = x + activate(convolve(x, channels, 3, f'block{i}_1'))
    x = activate(convolve(x, self.embedding_dim, 1, 'embedding'))
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
