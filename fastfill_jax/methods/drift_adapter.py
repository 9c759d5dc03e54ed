"""Drift-Adapter: the query goes to the old space (EMNLP 2025, 2509.23471).

The stored gallery stays as it is, and what is asked with, or backfilled, is
mapped from new to old: by a rotation (`procrustes` with acts_on='query'), an
affine map of low rank, or a small perceptron beside a straight way. Networks
are given the new embedding as `old`: acts_on='query' turns the pairs.
"""

import dataclasses

from flax import linen as nn

from fastfill_jax.methods import network
from fastfill_jax.models import alignment, layers


class LowRank(alignment.Map):
  """x U V + t.

  Attributes:
    rank: Of U V.
  """

  rank: int = 64

  @nn.compact
  def __call__(self, old, side=None, train=False):
    """See `Map`."""
    del side, train
    width, dense = old.shape[1], layers.torch_dense
    x = dense(self.rank, width, use_bias=False, name='down')(old)
    return dense(self.new_dim, self.rank, name='up')(x), None


class Residual(alignment.Map):
  """x + W2 gelu(W1 x + b1) + b2; of different widths, x is projected.

  Attributes:
    hidden_dim: Rows of W1.
  """

  hidden_dim: int = 256

  @nn.compact
  def __call__(self, old, side=None, train=False):
    """See `Map`."""
    del side, train
    width, dense = old.shape[1], layers.torch_dense
    x = dense(self.hidden_dim, width, name='hidden')(old)
    x = dense(self.new_dim, self.hidden_dim, name='out')(nn.gelu(x))
    if width != self.new_dim:
      old = dense(self.new_dim, width, use_bias=False, name='straight')(old)
    return old + x, None


LOW_RANK = network.Network(
  source='Vejendla, EMNLP 2025, arXiv 2509.23471',
  module=__name__,
  network=LowRank,
  error={'l2': 1.0},
  acts_on='query',
)
RESIDUAL = dataclasses.replace(
  LOW_RANK, network=Residual, options={'hidden_dim': 256}
)
