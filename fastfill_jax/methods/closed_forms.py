"""Alignments without training: the floor that every network should beat.

All are affine, aligned = old @ kernel + bias, and all are fitted from moments
that one pass over blocks of pairs collects: neither side need fit in memory.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fastfill_jax.methods import method
from fastfill_jax.storage import artifact, splits


class Affine(NamedTuple):
  """The map old @ kernel + bias."""

  kernel: np.ndarray  # float32 [old embedding, new embedding]
  bias: np.ndarray  # float32 [new embedding]


class Moments(NamedTuple):
  """First and second moments of pairs, in float64, about the means."""

  count: int
  old_mean: np.ndarray  # [old embedding]
  new_mean: np.ndarray  # [new embedding]
  gram: np.ndarray  # sum of old old^T, [old embedding, old embedding]
  cross: np.ndarray  # sum of old new^T, [old embedding, new embedding]
  new_square: float  # sum of |new|^2


def collect(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
  """The moments of all rows of blocks of pairs, each [block, embedding].

  Raises:
    ValueError: if there is no row, a block's shapes do not fit, or a value is
      not finite.
  """
  total = None
  for old, new in blocks:
    _check_block(old, new, total)
    if len(old):
      block = _of_block(old.astype(np.float64), new.astype(np.float64))
      total = block if total is None else _merge(total, block)
  if total is None:
    raise ValueError('No pairs of old and new embeddings to fit.')
  return total


def identity(moments: Moments) -> Affine:
  """The old embedding as it is, which needs encoders of one width.

  Raises:
    ValueError: if the widths differ.
  """
  old_dim, new_dim = moments.cross.shape
  if old_dim != new_dim:
    raise ValueError(
      f'identity needs embeddings of one width, got old {old_dim} and new '
      f'{new_dim}.'
    )
  return Affine(np.eye(old_dim, dtype='f4'), np.zeros(old_dim, 'f4'))


def procrustes(moments: Moments) -> Affine:
  """The rotation or reflection, about the means, closest in squared error.

  Schoenemann, "A generalized solution of the orthogonal Procrustes problem",
  1966. Both sides are centred and nothing is scaled. Widths may differ: U V^T
  of the covariance's SVD then has orthonormal rows (old narrower; still the
  least squares) or columns (old wider: the projection of largest covariance).
  """
  u, _, vt = np.linalg.svd(moments.cross, full_matrices=False)
  return _about_means(u @ vt, moments)


def ridge(moments: Moments, penalty: float | None = None) -> Affine:
  """Linear regression with a penalty on |kernel|^2, none on the bias.

  It is added to the diagonal of the centred gram matrix; None: `gcv_penalty`.

  Raises:
    ValueError: if the penalty is not positive.
  """
  if penalty is None:
    penalty = gcv_penalty(moments)
  if not 0 < penalty < np.inf:
    raise ValueError(f'penalty={penalty}; it must be positive and finite.')
  gram = moments.gram + penalty * np.eye(len(moments.gram))
  return _about_means(np.linalg.solve(gram, moments.cross), moments)


def gcv_penalty(moments: Moments) -> float:
  """The penalty of least generalised cross-validation error.

  Golub, Heath and Wahba, 1979: with f the degrees of freedom (bias included)
  and n the rows, the residual sum of squares over (n - f)^2 is least. Tried
  are 10^-6 to 10^2, two a decade, times the gram matrix's mean eigenvalue.

  Raises:
    ValueError: if all old embeddings are equal.
  """
  eigenvalues, vectors = np.linalg.eigh(moments.gram)
  eigenvalues = np.maximum(eigenvalues, 0)  # rounding can leave -1e-12
  scale = eigenvalues.mean()
  if scale == 0:
    raise ValueError('All old embeddings are equal: nothing can be fitted.')
  energy = np.sum((vectors.T @ moments.cross) ** 2, axis=1)
  penalties = scale * 10.0 ** np.arange(-6, 2.5, 0.5)
  errors = []
  for penalty in penalties:
    damped = eigenvalues + penalty
    residual = moments.new_square - np.sum(
      energy * (eigenvalues + 2 * penalty) / damped**2
    )
    freedom = moments.count - 1 - np.sum(eigenvalues / damped)
    errors.append(residual / freedom**2 if freedom > 0 else np.inf)
  return float(penalties[np.argmin(errors)])


def apply(params: Affine, old: np.ndarray) -> np.ndarray:
  """Maps old [batch, old embedding] to aligned [batch, new embedding].

  Raises:
    ValueError: if old is not as wide as what was fitted.
  """
  if old.ndim != 2 or old.shape[1] != len(params.kernel):
    raise ValueError(
      f'old must be [batch, {len(params.kernel)}], got {old.shape}.'
    )
  return np.asarray(old, np.float32) @ params.kernel + params.bias


def _about_means(kernel, moments):
  bias = moments.new_mean - moments.old_mean @ kernel
  return Affine(kernel.astype(np.float32), bias.astype(np.float32))


def _of_block(old, new):
  old_mean, new_mean = old.mean(axis=0), new.mean(axis=0)
  old, new = old - old_mean, new - new_mean
  square = float(np.sum(new**2))
  return Moments(len(old), old_mean, new_mean, old.T @ old, old.T @ new, square)


def _merge(a, b):
  """Chan, Golub and LeVeque, 1983: no sum of uncentred squares cancels."""
  count = a.count + b.count
  old, new = b.old_mean - a.old_mean, b.new_mean - a.new_mean
  weight = a.count * b.count / count
  return Moments(
    count,
    a.old_mean + old * (b.count / count),
    a.new_mean + new * (b.count / count),
    a.gram + b.gram + weight * np.outer(old, old),
    a.cross + b.cross + weight * np.outer(old, new),
    a.new_square + b.new_square + weight * (new @ new),
  )


def _check_block(old, new, total):
  if old.ndim != 2 or new.ndim != 2 or len(old) != len(new):
    raise ValueError(
      'A block must be old and new [block, embedding] of the same rows, got '
      f'{old.shape} and {new.shape}.'
    )
  widths = old.shape[1], new.shape[1]
  if total is not None and widths != total.cross.shape:
    raise ValueError(
      f'A block of widths {widths} after blocks of {total.cross.shape}.'
    )
  if not (np.isfinite(old).all() and np.isfinite(new).all()):
    raise ValueError('Embeddings to fit hold NaN or infinity.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClosedForm(method.Method):
  """An affine map from the moments of all pairs.

  Attributes:
    solve: The function that gives it.
    penalty: Of ridge.
  """

  solve: Callable[..., Affine]
  penalty: float | None = None

  def fit(self, directory, how, views, classifier, recipe, seed):
    """See `Method`."""
    del how, classifier, recipe, seed
    ends = ('old', 'new') if self.acts_on == 'gallery' else ('new', 'old')
    moments = collect(splits.blocks(views, *ends))
    options = {} if self.penalty is None else {'penalty': self.penalty}
    params = self.solve(moments, **options)
    artifact.save_variables(directory / 'variables.msgpack', params._asdict())

  def load(self, directory) -> method.Maps:
    """See `Method`."""
    held = artifact.load_variables(directory / 'variables.msgpack')
    params = Affine(**held)

    def mapped(x, side=None):
      return apply(params, x), None

    if self.acts_on == 'query':
      return method.of_query(lambda new: mapped(new)[0])
    return method.Maps(mapped, new_dim=params.kernel.shape[1])


def _method(source, solve):
  return ClosedForm(source=source, module=__name__, solve=solve)


IDENTITY = _method('the old embedding as it is', identity)
PROCRUSTES = _method('Schoenemann, 1966', procrustes)
RIDGE = _method('Hoerl and Kennard, 1970', ridge)
