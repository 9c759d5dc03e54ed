"""Terms of an alignment's loss: pure functions of what they name.

A term's parameters declare what it reads, and are all it can read:

  aligned        the network's output [batch, embedding]
  query          new embeddings in the gallery's space [batch, embedding]
  stored         what an item becomes when backfilled [batch, embedding]
  aligned_offset, stored_offset   added to squared distances to them [batch]
  log_variance   [batch], or [batch, embedding] per coordinate
  old, new       embeddings of the encoders [batch, embedding]
  label          int [batch]
  logits         the new model's frozen classifier on aligned [batch, class]
  class_weights  that classifier's kernel [embedding, class]
  new_square     mean squared distance of two new embeddings, a number
  key            a JAX PRNG key, another one at every step and device
  backward_kernel  of the linear map of `query`, where a network has one
  label_smoothing, of the recipe

Keyword-only parameters are options, which a config may set beside the weight.
A term returns one value per example, [batch], or one per coordinate, [batch,
embedding]. A new term is one function and one line in `TERMS`; those that
compare the items of a batch are in `contrastive`.
"""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fastfill_jax import choices, losses
from fastfill_jax.methods import contrastive


def l2(aligned: jax.Array, query: jax.Array) -> jax.Array:
  """Squared error of every coordinate: FCT's loss (arXiv 2112.02805)."""
  return losses.squared_error(aligned, query)


def disc(
  logits: jax.Array, label: jax.Array, label_smoothing: float
) -> jax.Array:
  """Cross-entropy of the new classifier: FastFill's discriminative loss."""
  return losses.cross_entropy(logits, label, label_smoothing)


def backward(query: jax.Array, old: jax.Array) -> jax.Array:
  """Squared error of what `query` makes of the new embedding, to the old one.

  With `contrast`, `contrast_old` and `orthogonality` the loss of
  `lambda_orthogonality` (arXiv 2509.16664); of different widths, of the
  coordinates that both have.
  """
  width = min(query.shape[1], old.shape[1])
  return losses.squared_error(query[:, :width], old[:, :width])


def orthogonality(
  backward_kernel: jax.Array,
  query: jax.Array,
  *,
  threshold: float = 0.375,
  slope: float = 10.0,
) -> jax.Array:
  """sigmoid(slope (f - lambda)) f, of f = |W W^T - I|, Frobenius.

  The lambda-orthogonality of arXiv 2509.16664: it holds W near the orthogonal
  matrices, and lets go of it nearer than lambda = threshold sqrt(width), the
  paper's 12 at its 1,024 dimensions.
  """
  gram = backward_kernel @ backward_kernel.T
  square = jnp.sum((gram - jnp.eye(len(gram))) ** 2)
  far = jnp.sqrt(jnp.maximum(square, 1e-12))  # a slope at 0 too
  limit = threshold * len(gram) ** 0.5
  value = jax.nn.sigmoid(slope * (far - limit)) * far
  return jnp.full(len(query), value)


TERMS: dict[str, Callable[..., jax.Array]] = {
  'l2': l2,
  'disc': disc,
  'info_nce': contrastive.info_nce,
  'mixed': contrastive.mixed,
  'metric_compatible': contrastive.metric_compatible,
  'backward': backward,
  'contrast': contrastive.contrast,
  'contrast_old': contrastive.contrast_old,
  'orthogonality': orthogonality,
}


def reads(term: Callable[..., jax.Array]) -> tuple[str, ...]:
  """Names of what a term reads, such as ('logits', 'label')."""
  return tuple(
    name
    for name, parameter in inspect.signature(term).parameters.items()
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
  )


def values(
  known: Mapping[str, Callable[..., jax.Array]],
  options: Mapping[str, Mapping[str, Any]],
  available: Mapping[str, Any],
) -> dict[str, jax.Array]:
  """Values of the terms in options, of what they read of what is there."""
  found = {}
  for name, chosen in options.items():
    read = {x: available[x] for x in reads(known[name])}
    found[name] = known[name](**read, **chosen)
  return found


def parse(
  weighted: Mapping[str, Any], known: Mapping[str, Callable[..., jax.Array]]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
  """Weights and options of known terms, by name.

  A config gives of a term its weight, or a dict of 'weight' and options.

  Raises:
    ValueError: If a name or an option is unknown, a weight is negative, or an
      option is not one of its choices or not a positive number.
  """
  weights, options = {}, {}
  for name, value in weighted.items():
    choices.check('term', name, known)
    value = dict(value) if isinstance(value, Mapping) else {'weight': value}
    accepted = inspect.signature(known[name]).parameters
    accepted = {x: accepted[x] for x in accepted if x not in reads(known[name])}
    weights[name] = float(value.pop('weight', 1.0))
    choices.check_keys(f'term {name!r}', value, ['weight', *sorted(accepted)])
    for option, given in value.items():
      _check_option(f'{option} of the term {name!r}', given, accepted[option])
    options[name] = value
    if weights[name] < 0:
      raise ValueError(
        f'The weight of the term {name!r} is {weights[name]}; not below 0.'
      )
  return weights, options


def _check_option(what: str, given: Any, parameter: inspect.Parameter):
  if typing.get_origin(parameter.annotation) is typing.Literal:
    choices.check(what, given, typing.get_args(parameter.annotation))
  elif not (isinstance(given, int | float) and 0 < given < math.inf):
    raise ValueError(f'{what} is {given!r}: a positive number.')
