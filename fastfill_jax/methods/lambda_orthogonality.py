"""Lambda-orthogonality: both models in one space (NeurIPS 2025, 2509.16664).

A backward map B rotates the new space towards the old one, a forward map F
brings stored embeddings there, and what is asked with, and backfilled, is
B(new). Its loss:

  |F(old) - B(new)|^2, |B(new) - old|^2           `l2`, `backward`
  class contrast of F(old) with B(new), with old  `contrast`, `contrast_old`
  sigmoid(slope (f - lambda)) f, f = |W W^T - I|  `orthogonality`

`STRICT` has B = exp(P) of a skew-symmetric P and no need of the last term; it
is for the data that the encoders know. `RELAXED` has B(x) = W x + b, for other
data. Its order is `class_mean`, or by cosine.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax import choices
from fastfill_jax.methods import network
from fastfill_jax.models import alignment, layers

FORWARDS = ('network', 'affine')


class Affine(alignment.Map):
  """x W + b."""

  @nn.compact
  def __call__(self, old, side=None, train=False):
    """See `Map`."""
    del side, train
    affine = layers.torch_dense(self.new_dim, old.shape[1], name='affine')
    return affine(old), None


class Unified(alignment.Map):
  """F(old), and B(new) as the query; B begins as the identity.

  Attributes:
    forward: F: FastFill's 'network', or an 'affine' map; the paper has both.
    hidden_dim: Of the network.
    relaxed: Whether B is affine, or a rotation.
  """

  forward: str = 'network'
  hidden_dim: int = 2048
  relaxed: bool = False
  in_new_space: ClassVar[bool] = False

  def __post_init__(self):
    choices.check('forward', self.forward, FORWARDS)
    if self.forward == 'affine' and self.uncertainty != 'none':
      raise ValueError("An uncertainty needs forward='network'.")
    super().__post_init__()

  def setup(self):
    """F, and what B differs from the identity by."""
    width, given = self.new_dim, (self.uncertainty, self.axis_name)
    if self.forward == 'affine':
      self.forward_map = Affine(width, *given)
    else:
      self.forward_map = alignment.Alignment(width, *given, self.hidden_dim)
    shape = (width, width) if self.relaxed else (width * (width - 1) // 2,)
    self.change = self.param('change', nn.initializers.zeros, shape)
    if self.relaxed:
      self.bias = self.param('bias', nn.initializers.zeros, (width,))

  def __call__(self, old, side=None, train=False):
    """See `Map`."""
    return self.forward_map(old, side, train)

  def query(self, new):
    """See `Map`."""
    mapped = new @ self.kernel()
    return mapped + self.bias[None] if self.relaxed else mapped

  def kernel(self) -> jax.Array:
    """Of B, [new embedding, new embedding]."""
    if self.relaxed:
      return jnp.eye(self.new_dim) + self.change
    upper = jnp.zeros((self.new_dim, self.new_dim))
    upper = upper.at[jnp.triu_indices(self.new_dim, 1)].set(self.change)
    return jax.scipy.linalg.expm(upper - upper.T)

  def outputs(self, old, side, new, train):
    """See `Map`; with the kernel of B."""
    held = super().outputs(old, side, new, train)
    return held | {'backward_kernel': self.kernel()}


_TERMS = {'backward': 1.0, 'contrast': 1.0, 'contrast_old': 1.0}
STRICT = network.Network(
  source='Ricci et al., NeurIPS 2025, arXiv 2509.16664, strict',
  module=__name__,
  network=Unified,
  error={'l2': 1.0},
  terms=_TERMS,
)
RELAXED = dataclasses.replace(
  STRICT,
  source='Ricci et al., NeurIPS 2025, arXiv 2509.16664',
  options={'relaxed': True},
  terms=_TERMS | {'orthogonality': 1.0},
)
