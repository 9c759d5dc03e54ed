"""Losses of the encoders and of the alignment, one value per example.

FastFill, arXiv 2303.04766, section 4. Callers average; the mean over devices
is taken of the gradients, outside of these functions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def squared_error(aligned: jax.Array, new: jax.Array) -> jax.Array:
  """(aligned - new)^2 of every coordinate, [batch, embedding] all three.

  Raises:
    ValueError: if the shapes differ or are not [batch, embedding].
  """
  _check_matrices(aligned, new)
  return (aligned - new) ** 2


def cross_entropy(
  logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
  """(1 - e) (-log p_label) + e mean_c(-log p_c), for label smoothing e.

  Args:
    logits: [batch, class].
    labels: int [batch].
    label_smoothing: e, in [0, 1].

  Returns:
    [batch]; NaN where the label is not one of the classes.

  Raises:
    ValueError: if shapes or dtypes do not fit, or e is not in [0, 1].
  """
  if logits.ndim != 2 or labels.shape != logits.shape[:1]:
    raise ValueError(
      'logits must be [batch, class] and labels [batch], got '
      f'{logits.shape} and {labels.shape}.'
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'labels must be integers, got {labels.dtype}.')
  if not 0 <= label_smoothing <= 1:
    raise ValueError(f'label_smoothing={label_smoothing}; not in [0, 1].')
  # A negative label would count from the last class.
  labels = jnp.where(labels < 0, logits.shape[1], labels)[:, None]
  surprise = -jax.nn.log_softmax(logits)
  own = jnp.take_along_axis(surprise, labels, axis=1, mode='fill')[:, 0]
  if label_smoothing == 0:  # a class ruled out, by a logit of -inf, may stay
    return own
  everywhere = jnp.mean(surprise, axis=1)
  return (1 - label_smoothing) * own + label_smoothing * everywhere


def nll(loss: jax.Array, log_variance: jax.Array) -> jax.Array:
  """Negative log-likelihood 1/2 exp(-s) loss + 1/2 s, less a constant.

  Its minimum over s is at s = log E[loss]: the log-variance s predicts the
  loss. Both are [batch], or [batch, embedding] where s is per coordinate; the
  result is [batch], a mean over coordinates. Gradients flow into both.

  Raises:
    ValueError: if the shapes differ.
  """
  if loss.shape != log_variance.shape or loss.ndim not in (1, 2):
    raise ValueError(
      'loss and log_variance must both be [batch] or [batch, embedding], got '
      f'{loss.shape} and {log_variance.shape}.'
    )
  return per_example(0.5 * jnp.exp(-log_variance) * loss + 0.5 * log_variance)


def per_example(value: jax.Array) -> jax.Array:
  """[batch] of [batch], or the mean over coordinates of [batch, embedding]."""
  return value if value.ndim == 1 else jnp.mean(value, axis=1)


def uncertain(
  errors: Sequence[jax.Array], log_variance: jax.Array | None
) -> jax.Array:
  """The sum L of errors, weighed by the uncertainty that predicts it.

  L [batch] itself without log-variance; `nll(L, s)` with one per example. One
  per coordinate weighs the errors that have coordinates, [batch, embedding],
  each coordinate by its own; the others, such as a cross-entropy, are weighed
  by the mean, so that equal log-variances give what one per example gives.
  """
  if log_variance is None or log_variance.ndim == 1:
    total = sum(map(per_example, errors), jnp.float32(0))
    return total if log_variance is None else nll(total, log_variance)
  mean = jnp.mean(log_variance, axis=1)
  fine = (x for x in errors if x.ndim > 1)
  coarse = (x for x in errors if x.ndim == 1)
  by_coordinate = sum(fine, jnp.zeros_like(log_variance))
  others = sum(coarse, jnp.zeros_like(mean))
  return nll(by_coordinate, log_variance) + 0.5 * jnp.exp(-mean) * others


def normalise(x: jax.Array, axis: int = 1) -> jax.Array:
  """Vectors along an axis at length 1; all zero, as after a ReLU, stays so."""
  square = jnp.sum(x**2, axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _check_matrices(a, b):
  if a.ndim != 2 or a.shape != b.shape:
    raise ValueError(
      f'Both must be [batch, embedding], got {a.shape} and {b.shape}.'
    )
