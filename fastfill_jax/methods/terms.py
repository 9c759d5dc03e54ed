"""Terms of an alignment's loss: pure functions of what they name.

A term's parameters declare what it reads, and are all it can read:

  aligned        the network's output [batch, embedding]
  query          new embeddings in the gallery's space [batch, embedding]
  log_variance   [batch], or [batch, embedding] per coordinate
  old, new       embeddings of the encoders [batch, embedding]
  label          int [batch]
  logits         the new model's frozen classifier on aligned [batch, class]
  class_weights  that classifier's kernel [embedding, class]
  new_square     mean squared distance of two new embeddings, a number
  key            a JAX PRNG key, another one at every step and device
  label_smoothing, of the recipe

Keyword-only parameters are options, which a config may set beside the weight.
A term returns one value per example, [batch], or one per coordinate, [batch,
embedding]. A new term is one function and one line in `TERMS`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from fastfill_jax import choices, losses


def l2(aligned: jax.Array, query: jax.Array) -> jax.Array:
  """Squared error of every coordinate: FCT's loss (arXiv 2112.02805)."""
  return losses.squared_error(aligned, query)


def disc(
  logits: jax.Array, label: jax.Array, label_smoothing: float
) -> jax.Array:
  """Cross-entropy of the new classifier: FastFill's discriminative loss."""
  return losses.cross_entropy(logits, label, label_smoothing)


TERMS: dict[str, Callable[..., jax.Array]] = {
  'l2': l2,
  'disc': disc,
}


def reads(term: Callable[..., jax.Array]) -> tuple[str, ...]:
  """Names of what a term reads, such as ('logits', 'label')."""
  return tuple(
    name
    for name, parameter in inspect.signature(term).parameters.items()
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
  )


def parse(
  weighted: Mapping[str, Any], known: Mapping[str, Callable[..., jax.Array]]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
  """Weights and options of terms, as a config gives them.

  Args:
    weighted: By name a weight, or a dict of 'weight' and options.
    known: The terms there are.

  Returns:
    Weights and options by name.

  Raises:
    ValueError: If a name or an option is unknown, or a weight is negative.
  """
  weights, options = {}, {}
  for name, value in weighted.items():
    choices.check('term', name, known)
    value = dict(value) if isinstance(value, Mapping) else {'weight': value}
    accepted = set(inspect.signature(known[name]).parameters)
    accepted -= set(reads(known[name]))
    weights[name] = float(value.pop('weight', 1.0))
    choices.check_keys(f'term {name!r}', value, ['weight', *sorted(accepted)])
    options[name] = value
    if weights[name] < 0:
      raise ValueError(
        f'The weight of the term {name!r} is {weights[name]}; not below 0.'
      )
  return weights, options
