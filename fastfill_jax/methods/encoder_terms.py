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
from fastfill_jax.methods import contrastive


def classify(
  logits: jax.Array, label: jax.Array, label_smoothing: float
) -> jax.Array:
  """Cross-entropy: how FastFill trains old and new (arXiv 2303.04766, 3)."""
  return losses.cross_entropy(logits, label, label_smoothing)


def simclr(logits: jax.Array, *, temperature: float = 0.1) -> jax.Array:
  """SimCLR's loss on projections (arXiv 2002.05709, equation 1), [image].

  The other view of an image must be closer, by cosine, than both views of every
  other image: the mean of the two directions. It trains side-information (FCT,
  arXiv 2112.02805).
  """
  views = [losses.normalise(x) for x in jnp.split(logits, 2)]
  (all_a, itself), (all_b, _) = map(parallel.everywhere, views)
  own, values = jnp.argmax(itself, axis=1), []
  for view, same, other in ((views[0], all_a, all_b), (views[1], all_b, all_a)):
    negatives = jnp.where(itself, -jnp.inf, view @ same.T)
    similarity = jnp.hstack([view @ other.T, negatives]) / temperature
    values.append(losses.cross_entropy(similarity, own))
  return (values[0] + values[1]) / 2


def influence(
  embedding: jax.Array,
  label: jax.Array,
  teacher_weights: jax.Array,
  teacher_classes: jax.Array,
) -> jax.Array:
  """The old classifier on new embeddings: BCT (CVPR 2020, arXiv 2003.11942).

  Among the classes that it has learned; 0 for images of others.
  """
  known = teacher_classes[label]
  logits = embedding @ teacher_weights
  logits = jnp.where(teacher_classes[None], logits, -jnp.inf)
  label = jnp.where(known, label, jnp.argmax(teacher_classes))
  return jnp.where(known, losses.cross_entropy(logits, label), 0)


def ract(
  embedding: jax.Array,
  label: jax.Array,
  teacher_embedding: jax.Array,
  *,
  temperature: float = 0.1,
) -> jax.Array:
  """RACT's contrast (ICLR 2022, arXiv 2201.09724), by cosine.

  A new embedding is nearer to its image's old one than to the old ones *and*
  the new ones of other classes: on old negatives alone, a new one may come
  before the right old one while the gallery is backfilled.
  """
  new, old = map(losses.normalise, (embedding, teacher_embedding))
  others = ~contrastive.same(label)
  candidates = [new @ parallel.everywhere(x)[0].T for x in (old, new)]
  similarity = jnp.concatenate(
    [jnp.sum(new * old, axis=1, keepdims=True), *candidates], axis=1
  )
  own = jnp.arange(similarity.shape[1])[None] == jnp.zeros_like(label)[:, None]
  counted = jnp.concatenate([own[:, :1], others, others], axis=1)
  return contrastive.ranked(similarity / temperature, own, counted)


TERMS: dict[str, Callable[..., jax.Array]] = {
  'classify': classify,
  'simclr': simclr,
  'influence': influence,
  'ract': ract,
}
