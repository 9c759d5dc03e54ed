"""Mixfill: one scale for aligned and new items, and no aligned item lost.

Ours. The gallery that is searched is a mixed one, so the network is trained to
be searched in it:

  h, s      FastFill's network on the old embedding, with its uncertainty
  a h + (1 - a) x    stored when an item is backfilled: the new embedding x, and
            a share of the aligned one, which costs nothing and helps
  b >= 0    added to an item's squared distance to every query: an aligned item
            lies nearer to everything than the new one it stands for, since it
            is a mean. As one more coordinate, sqrt(b), and 0 in the query, any
            L2 index serves it. One is predicted from h's last hidden layer,
            one from what is stored.

Its loss is 1/2 exp(-s) l2 + 1/2 s, which keeps s an uncertainty, and the
retrieval of the batch's classes from the batch, of which a random share is
backfilled (`contrastive.mixed`): half the mean over all relevant items, as mAP
counts, half their sum, as the first hit does.
"""

import jax
import jax.numpy as jnp

from fastfill_jax.methods import network
from fastfill_jax.models import alignment, layers

_WIDTH = 256  # Of the hidden layer that predicts the offset of what is stored.


class Level(alignment.Map):
  """h with sqrt(b) behind it, and what becomes of new embeddings.

  Attributes:
    hidden_dim: width of the mixer's hidden layers.
    kept: a, the share of the aligned embedding that a backfilled item keeps.
  """

  hidden_dim: int = 2048
  kept: float = 0.3

  def __post_init__(self):
    if not 0 <= self.kept <= 1:
      raise ValueError(f'kept={self.kept}; a share in [0, 1].')
    super().__post_init__()

  def setup(self):
    """The network, both offsets, and the scale of the data."""
    self.alignment = alignment.Alignment(
      self.new_dim, self.uncertainty, self.axis_name, self.hidden_dim
    )
    self.aligned_offset = layers.torch_dense(1, self.hidden_dim)
    self.stored_hidden = layers.torch_dense(_WIDTH, 2 * self.new_dim)
    self.stored_offset = layers.torch_dense(1, _WIDTH)
    # Set to the data's by the trainer, and kept with the parameters.
    self.new_square = self.variable(
      'batch_stats', 'new_square', lambda: jnp.float32(1)
    )

  def __call__(self, old, side=None, train=False):
    """See `Map`; aligned has one coordinate more than new_dim."""
    aligned, offset, log_variance = self._align(old, side, train)
    return _behind(aligned, offset), log_variance

  def query(self, new):
    """New embeddings with a 0 behind them."""
    return _behind(new, jnp.zeros(len(new)))

  def store(self, new, aligned):
    """See `Map`."""
    return _behind(*self._store(new, aligned[:, :-1]))

  def outputs(self, old, side, new, train):
    """See `Map`."""
    aligned, offset, log_variance = self._align(old, side, train)
    stored, stored_offset = self._store(new, aligned)
    return {
      'aligned': aligned,
      'aligned_offset': offset,
      'log_variance': log_variance,
      'query': new,
      'stored': stored,
      'stored_offset': stored_offset,
    }

  def _align(self, old, side, train):
    aligned, log_variance, hidden = self.alignment.with_hidden(old, side, train)
    return aligned, self._scaled(self.aligned_offset(hidden)), log_variance

  def _store(self, new, aligned):
    stored = (1 - self.kept) * new + self.kept * aligned
    both = jnp.concatenate([stored, aligned], axis=1)
    both = 2 * both / jnp.sqrt(self.new_square.value)
    hidden = jax.nn.relu(self.stored_hidden(both))
    return stored, self._scaled(self.stored_offset(hidden))

  def _scaled(self, offset):
    """[batch, 1] to a positive number in the data's squared distances."""
    positive = jax.nn.softplus(offset[:, 0]) + 1e-6  # sqrt has a slope there
    return 0.1 * self.new_square.value * positive


def _behind(embedding, offset):
  return jnp.concatenate([embedding, jnp.sqrt(offset)[:, None]], axis=1)


METHOD = network.Network(
  source='this repository',
  module=__name__,
  network=Level,
  error={'l2': 1.0},
  terms={'mixed': {'weight': 0.5, 'over': 'both'}},
  uncertainty='example',
)
