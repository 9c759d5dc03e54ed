"""What several of the networks share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

# He et al. (arXiv 1502.01852) for ReLU networks, in the form that keeps the
# gradient's variance.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def batch_norm(of: nn.Module, train: bool, **options) -> nn.BatchNorm:
  """The BatchNorm of an encoder, over its `axis_name`.

  Parameters, statistics and the reductions are float32 whatever `dtype` is.
  While initialising no device axis is bound, and Linen uses none.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    axis_name=of.axis_name,
    **options,
  )


class FreezableNorm(nn.Module):
  """BatchNorm of [batch, width] that a step may freeze: one program for both.

  As Linen's, whose choice is made when the program is built. Frozen, it uses
  the running statistics and keeps them; scale and bias learn on.

  Attributes:
    axis_name: device axis of the statistics.
  """

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool | jax.Array) -> jax.Array:
    """Normalises by the batch where `train` is true, a bool or bool []."""
    width = x.shape[-1:]
    held = (
      self.variable('batch_stats', 'mean', jnp.zeros, width),
      self.variable('batch_stats', 'var', jnp.ones, width),
    )
    mean, var = (x.value for x in held)
    if train is not False:
      moments = jnp.stack([x.mean(0), jnp.square(x).mean(0)])
      if self.axis_name and not self.is_initializing():
        moments = jax.lax.pmean(moments, self.axis_name)
      now = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0)
      for variable, new in zip(held, now, strict=True):
        running = 0.9 * variable.value + 0.1 * new
        variable.value = jnp.where(train, running, variable.value)
      mean, var = jnp.where(train, now[0], mean), jnp.where(train, now[1], var)
    scale = self.param('scale', nn.initializers.ones, width)
    bias = self.param('bias', nn.initializers.zeros, width)
    factor = jax.lax.rsqrt(var + 1e-5) * scale
    return (x - mean[None]) * factor[None] + bias[None]


def check_images(images: jax.Array) -> None:
  """Refuses what is not a batch of float images.

  Raises:
    ValueError: if images are not floats [batch, height, width, channel].
  """
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      'Encoders take normalised float images [batch, height, width, channel], '
      f'got {images.dtype} {images.shape}.'
    )


def check_widths(widths: Sequence[int], embedding_dim: int | None) -> None:
  """Raises a ValueError unless all of an encoder's widths are positive."""
  if not all(width > 0 for width in widths):
    raise ValueError(f'widths={widths}; all must be positive.')
  if embedding_dim is None:
    raise ValueError('embedding_dim=None; it must be a positive width.')


def torch_dense(width: int, fan_in: int, **options) -> nn.Dense:
  """A dense layer as PyTorch begins it: all uniform in +-1/sqrt(fan_in).

  The released alignments are trained from there. Where BatchNorm follows, the
  scale of a kernel cancels, but not the ratio of a step to it.
  """
  uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

  def bias(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return nn.Dense(width, kernel_init=uniform, bias_init=bias, **options)
