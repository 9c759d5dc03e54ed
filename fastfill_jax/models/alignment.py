"""The networks that map between the spaces of two encoders.

A `Map` gives, of a batch of stored old embeddings, aligned ones and perhaps
their log-variances; and of new embeddings, what is put in the gallery's space
in their place, by default themselves. A new network is a subclass.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax import choices
from fastfill_jax.models import layers

UNCERTAINTIES = ('none', 'example', 'coordinate')


class Map(nn.Module):
  """What every network that aligns is.

  Attributes:
    new_dim: width of the new embedding.
    uncertainty: 'none', or one log-variance per 'example' or 'coordinate'.
    axis_name: device axis of BatchNorm's statistics.
    in_new_space: whether what it aligns lies among new embeddings as they are.
  """

  new_dim: int
  uncertainty: str = 'none'
  axis_name: str | None = None
  in_new_space: ClassVar[bool] = True

  def __post_init__(self):
    choices.check('uncertainty', self.uncertainty, UNCERTAINTIES)
    for name in ('new_dim', 'hidden_dim', 'rank'):
      if getattr(self, name, 1) < 1:
        raise ValueError(f'{name}={getattr(self, name)}; must be positive.')
    super().__post_init__()

  def __call__(
    self,
    old: jax.Array,
    side: jax.Array | None = None,
    train: bool | jax.Array = False,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Aligns a batch of old [batch, old embedding].

    Args:
      old: old embeddings.
      side: side-information [batch, side embedding], if the map reads it.
      train: whether BatchNorm uses the batch's statistics, a bool or bool [];
        otherwise it is frozen, though its scale and bias still learn.

    Returns:
      aligned [batch, new_dim], and log_variance [batch], [batch, new_dim] or
      None, by `uncertainty`.
    """
    raise NotImplementedError

  def query(self, new: jax.Array) -> jax.Array:
    """New embeddings [batch, embedding] in the space of the aligned ones."""
    return new

  def store(self, new: jax.Array, aligned: jax.Array) -> jax.Array:
    """What an item becomes when it is backfilled [batch, embedding]."""
    del aligned
    return self.query(new)

  def outputs(
    self,
    old: jax.Array,
    side: jax.Array | None,
    new: jax.Array,
    train: bool | jax.Array,
  ) -> dict[str, jax.Array]:
    """All that the terms of a loss may read of the network."""
    aligned, log_variance = self(old, side, train)
    query, none = self.query(new), jnp.zeros(len(old))
    return {
      'aligned': aligned,
      'aligned_offset': none,
      'log_variance': log_variance,
      'query': query,
      'stored': query,
      'stored_offset': none,
    }


class Alignment(Map):
  """FastFill's network (arXiv 2303.04766, section 4).

  The branches and the mixer, `hidden_dim` wide inside, are FCT's (Ramanujan et
  al., arXiv 2112.02805), the uncertainty head on its output FastFill's.
  """

  hidden_dim: int = 2048

  def __call__(self, old, side=None, train=False):
    """See `Map`; without side-information old feeds both branches."""
    return self.with_hidden(old, side, train)[:2]

  @nn.compact
  def with_hidden(self, old, side=None, train=False):
    """The same, and the mixer's last hidden layer [batch, hidden_dim]."""
    side = old if side is None else side
    if old.ndim != 2 or side.ndim != 2 or len(old) != len(side):
      raise ValueError(
        'old and side must be [batch, embedding] of the same batch, got '
        f'{old.shape} and {side.shape}.'
      )

    def dense(x, width, name):
      x = layers.torch_dense(width, x.shape[1], use_bias=False, name=name)(x)
      norm = layers.FreezableNorm(self.axis_name, name=f'{name}_norm')
      return nn.relu(norm(x, train))

    branches = []
    for name, embedding in (('old', old), ('side', side)):
      x = dense(embedding, 2 * embedding.shape[1], f'{name}_0')
      branches.append(dense(x, 2 * self.new_dim, f'{name}_1'))
    x = jnp.concatenate(branches, axis=1)
    x = dense(x, self.hidden_dim, 'mixer_0')
    x = dense(x, self.hidden_dim, 'mixer_1')
    last = layers.torch_dense(self.new_dim, self.hidden_dim, name='aligned')
    aligned = last(x)
    if self.uncertainty == 'none':
      return aligned, None, x
    single = self.uncertainty == 'example'
    width = 1 if single else self.new_dim
    head = layers.torch_dense(width, self.new_dim, name='log_variance')
    log_variance = head(aligned)
    return aligned, log_variance[:, 0] if single else log_variance, x
