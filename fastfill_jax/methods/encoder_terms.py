"""Terms of an encoder's loss: pure functions of what they name.

As in `terms.py`, parameters declare what a term reads:

  embedding      [batch, embedding]
  logits         what the head gives of it: [batch, class] of a classifier,
                 [batch, projection] of a projection
  label          int [batch]
  label_smoothing, of the recipe
  teacher_embedding  another, frozen encoder's of the same images
  teacher_weights    its classifier's kernel [teacher's embedding, class]
  teacher_classes    whether it was trained on a class, bool [class]

Where the transform gives two views of an image, all of the first views come
before all of the second ones. A term returns one value per example.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fastfill_jax import losses, parallel


def classify(
  logits: jax.Array, label: jax.Array, label_smoothing: float
) -> jax.Array:
  """Cross-entropy: how FastFill trains old and new (arXiv 2303.04766, 3)."""
  return losses.cross_entropy(logits, label, label_smoothing)


def simclr(logits: jax.Array, *, temperature: float = 0.1) -> jax.Array:
  """SimCLR's loss on projections: side-information (FCT, arXiv 2112.02805)."""
  view_a, view_b = jnp.split(logits, 2)
  return losses.nt_xent(view_a, view_b, temperature, parallel.AXIS)


TERMS: dict[str, Callable[..., jax.Array]] = {
  'classify': classify,
  'simclr': simclr,
}
