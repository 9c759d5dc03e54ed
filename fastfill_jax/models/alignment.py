"""The network that maps stored old embeddings into the new space.

FastFill, arXiv 2303.04766, section 4; the mixing network is FCT's (Ramanujan
et al., arXiv 2112.02805), the uncertainty head FastFill's.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax.models import layers

UNCERTAINTIES = ('none', 'example', 'coordinate')


class Alignment(nn.Module):
  """Maps old embeddings, and side-information, to aligned embeddings.

  Attributes:
    new_dim: width of the new embedding.
    hidden_dim: width of the mixer's hidden layers.
    uncertainty: 'none', or one log-variance per 'example' or 'coordinate'.
    axis_name: device axis of BatchNorm's statistics.
  """

  new_dim: int
  hidden_dim: int = 2048
  uncertainty: str = 'example'
  axis_name: str | None = None

  def __post_init__(self):
    if self.uncertainty not in UNCERTAINTIES:
      raise ValueError(
        f'uncertainty={self.uncertainty!r}; it must be one of {UNCERTAINTIES}.'
      )
    for name in ('new_dim', 'hidden_dim'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}; must be positive.')
    super().__post_init__()

  @nn.compact
  def __call__(
    self, old: jax.Array, side: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array | None]:
    """Aligns a batch.

    Args:
      old: old embeddings [batch, old embedding].
      side: side-information [batch, side embedding]; without it the old
        embedding feeds both branches.
      train: whether BatchNorm uses the batch's statistics (and, where
        'batch_stats' is mutable, averages them); otherwise the running ones:
        BatchNorm is frozen, though its scale and bias still learn.

    Returns:
      aligned [batch, new_dim], and log_variance [batch], [batch, new_dim] or
      None, by `uncertainty`.

    Raises:
      ValueError: if old and side are not matrices of the same batch.
    """
    side = old if side is None else side
    if old.ndim != 2 or side.ndim != 2 or len(old) != len(side):
      raise ValueError(
        'old and side must be [batch, embedding] of the same batch, got '
        f'{old.shape} and {side.shape}.'
      )

    def dense(x, width, name):
      x = nn.Dense(width, use_bias=False, name=name)(x)
      x = layers.BatchNorm(
        use_running_average=not train,
        axis_name=self.axis_name,
        name=f'{name}_norm',
      )(x)
      return nn.relu(x)

    branches = []
    for name, embedding in (('old', old), ('side', side)):
      x = dense(embedding, 2 * embedding.shape[1], f'{name}_0')
      branches.append(dense(x, 2 * self.new_dim, f'{name}_1'))
    x = jnp.concatenate(branches, axis=1)
    x = dense(x, self.hidden_dim, 'mixer_0')
    x = dense(x, self.hidden_dim, 'mixer_1')
    aligned = nn.Dense(self.new_dim, name='aligned')(x)
    if self.uncertainty == 'none':
      return aligned, None
    # From zero, every example weighs the same until the head has learnt.
    log_variance = nn.Dense(
      1 if self.uncertainty == 'example' else self.new_dim,
      kernel_init=nn.initializers.zeros,
      name='log_variance',
    )(aligned)
    if self.uncertainty == 'example':
      log_variance = log_variance[:, 0]
    return aligned, log_variance
