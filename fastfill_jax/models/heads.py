"""What stands on an embedding while its encoder is trained.

Both classifiers keep their weights as `params['kernel']` [embedding, class];
the new model's are W_new, which FastFill's discriminative loss reads.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fastfill_jax import choices, losses


class Linear(nn.Module):
  """A linear classifier without bias."""

  num_classes: int

  @nn.compact
  def __call__(
    self, embedding: jax.Array, labels: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits [batch, class], whatever the labels."""
    return embedding @ _kernel(self, embedding, self.num_classes)


class ArcFace(nn.Module):
  """Scaled cosines with an angular margin (Deng et al., arXiv 1801.07698).

  The logits lie in [-scale, scale] but for the margin, an angle in radians that
  is added to the one between an embedding and its own class.
  """

  num_classes: int
  scale: float = 64.0
  margin: float = 0.5

  def __post_init__(self):
    if self.scale <= 0:
      raise ValueError(f'scale={self.scale}; it must be positive.')
    if not 0 <= self.margin < math.pi:
      raise ValueError(f'margin={self.margin}; it must lie in [0, pi).')
    super().__post_init__()

  @nn.compact
  def __call__(
    self, embedding: jax.Array, labels: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits [batch, class]; without labels there is no margin.

    The label's is scale * cos(angle + margin) or, past angle = pi - margin,
    where that would rise again, scale * (cos(angle) - margin * sin(margin)).
    """
    kernel = _kernel(self, embedding, self.num_classes)
    cosine = losses.normalise(embedding, 1) @ losses.normalise(kernel, 0)
    if labels is None:
      return self.scale * cosine
    # Short of 1, where the sine has an infinite slope.
    inner = jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6)
    sine = jnp.sqrt(1 - inner**2)
    margin = self.margin
    own = jnp.where(
      cosine > -math.cos(margin),
      inner * math.cos(margin) - sine * math.sin(margin),
      cosine - margin * math.sin(margin),
    )
    is_own = jax.nn.one_hot(labels, self.num_classes, dtype=bool)
    return self.scale * jnp.where(is_own, own, cosine)


class Projection(nn.Module):
  """The perceptron between embedding and contrastive loss in SimCLR.

  Chen et al., arXiv 2002.05709, section 4.2; thrown away after training.
  """

  dim: int = 128

  @nn.compact
  def __call__(
    self, embedding: jax.Array, labels: jax.Array | None = None
  ) -> jax.Array:
    """Returns the projection [batch, dim] of embedding [batch, embedding]."""
    del labels
    width, init = embedding.shape[1], nn.initializers.he_normal()
    x = nn.Dense(width, kernel_init=init, name='hidden')(embedding)
    return nn.Dense(self.dim, use_bias=False, name='out')(nn.relu(x))


HEADS = {'linear': Linear, 'arcface': ArcFace, 'projection': Projection}


def make_head(num_classes: int, *, name: str, **options: Any) -> nn.Module:
  """The head of this name; options are those of the module.

  Raises:
    ValueError: If the name, an option or the value of one is unknown.
  """
  choices.check('head', name, HEADS)
  fields = set(HEADS[name].__dataclass_fields__)
  fields -= {'name', 'parent', 'num_classes'}
  choices.check_keys(f'head {name!r}', options, sorted(fields))
  if name != 'projection':
    options['num_classes'] = num_classes
  return HEADS[name](**options)


def _kernel(module, embedding, num_classes):
  shape = embedding.shape[1], num_classes
  return module.param('kernel', nn.initializers.lecun_normal(), shape)
