"""ResNets whose embedding is narrow, non-negative and not normalised.

ResNet v1.5 (He et al., arXiv 1512.03385, with the stride on the 3x3
convolution), except that the last block ends in `embedding_dim` channels: its
ReLU, averaged over the image, is the embedding (FastFill, arXiv 2303.04766,
section 5, after FCT).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax.models import layers

STEMS = ('imagenet', 'small')


def _conv(channels, size, stride, dtype):
  # Symmetric padding, as in the networks' published weights; 'SAME' would pad
  # one side only where the stride is 2.
  return nn.Conv(
    channels,
    (size, size),
    (stride, stride),
    padding=size // 2,
    use_bias=False,
    kernel_init=layers.he_normal,
    dtype=dtype,
  )


class _Block(nn.Module):
  """Convolutions of (channels, size, stride) around a shortcut."""

  convolutions: Sequence[tuple[int, int, int]]
  dtype: str
  axis_name: str | None

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    def norm(x):
      return layers.batch_norm(self, train, dtype=self.dtype)(x)

    x = images
    for i, (channels, size, stride) in enumerate(self.convolutions):
      x = nn.relu(x) if i else x
      x = norm(_conv(channels, size, stride, self.dtype)(x))
    shortcut = images
    if images.shape != x.shape:
      stride = max(stride for _, _, stride in self.convolutions)
      shortcut = norm(_conv(x.shape[-1], 1, stride, self.dtype)(images))
    return nn.relu(x + shortcut)


class ResNet(nn.Module):
  """Maps images [batch, height, width, channel] to [batch, embedding].

  Attributes:
    stage_sizes: blocks per stage; from the second on widths double, images
      halve.
    bottleneck: whether a block is 1x1, 3x3, 1x1 convolutions, the last four
      times as wide, instead of two 3x3.
    embedding_dim: channels of the last block; None: as the others of its stage.
    stem: 'imagenet' (7x7 of stride 2, then max-pooling: images of 224 pixels)
      or 'small' (3x3 of stride 1: 32 pixels).
    width: channels of the first stage.
    dtype: what is computed in; the embedding is float32.
    axis_name: device axis of BatchNorm's statistics.
  """

  stage_sizes: Sequence[int]
  bottleneck: bool
  embedding_dim: int | None = 128
  stem: str = 'imagenet'
  width: int = 64
  dtype: str = 'float32'
  axis_name: str | None = None

  def __post_init__(self):
    if self.stem not in STEMS:
      raise ValueError(f'stem={self.stem!r}; it must be one of {STEMS}.')
    if self.width < 1:
      raise ValueError(f'width={self.width}; it must be positive.')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the embedding; `train` uses the batch's own statistics."""
    layers.check_images(images)
    size, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
    x = _conv(self.width, size, stride, self.dtype)(images)
    x = nn.relu(layers.batch_norm(self, train, dtype=self.dtype)(x))
    if self.stem == 'imagenet':
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, num_blocks in enumerate(self.stage_sizes):
      channels = self.width * 2**stage
      for i in range(num_blocks):
        stride = 2 if stage > 0 and i == 0 else 1
        out_channels = channels * (4 if self.bottleneck else 1)
        if (stage + 1, i + 1) == (len(self.stage_sizes), num_blocks):
          out_channels = self.embedding_dim or out_channels
        if self.bottleneck:
          sizes = (channels, 1, 1), (channels, 3, stride), (out_channels, 1, 1)
        else:
          sizes = (channels, 3, stride), (out_channels, 3, 1)
        x = _Block(sizes, self.dtype, self.axis_name)(x, train)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
