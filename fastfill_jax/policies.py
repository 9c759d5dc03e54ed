"""Policies: in which order a gallery is backfilled.

A policy is a function of arrays; the names of its parameters declare what it
reads, and are all it can read:

  key            a JAX PRNG key
  aligned        aligned embeddings [gallery, embedding]
  log_variance   [gallery], or [gallery, embedding] per coordinate
  logits         the new classifier on aligned, [gallery, class]
  class_weights  the new classifier's kernel [embedding, class]
  labels         int [gallery]: what a gallery rarely has
  new            new embeddings [gallery, embedding]: an oracle reads these
  train_new      new embeddings of training examples [example, embedding]
  train_labels   int [example]: theirs
  gains          each item's true gain in mAP (`curve.gain`) [gallery]
  predicted_gains    the same, learnt on training items (`stages.learnt`)

It returns an order: int [gallery], a permutation, first to be backfilled
first. Ties go by index. Arrays may be anything that gives NumPy arrays for
slices, such as memory-mapped shards: they are read in blocks of rows. A new
policy is one function and one line in `POLICIES`.

`sigma` is FastFill's (arXiv 2303.04766, section 4.2); `class_mean` comes from
arXiv 2509.16664, entropy and its kin from RACT (ICLR 2022).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from scipy import special

from fastfill_jax import choices

_BLOCK_BYTES = 2**25  # of float64: what one block of rows may take


def random(key: jax.Array, aligned: np.ndarray) -> np.ndarray:
  """A uniformly random order; of aligned only the length is read."""
  return np.array(jax.random.permutation(key, len(aligned)), np.int64)


def sigma(log_variance: np.ndarray) -> np.ndarray:
  """Most uncertain first.

  With a log-variance per coordinate, by their mean: up to constants the entropy
  of the predicted Gaussian. The variances' own mean would be ruled by the one
  coordinate that is predicted worst.
  """
  return _order(
    lambda x: x if x.ndim == 1 else x.mean(axis=1), log_variance=log_variance
  )


def distance(aligned: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Largest Euclidean alignment error first: an oracle."""
  if aligned.shape[1:] != new.shape[1:]:
    raise ValueError(
      f'Embeddings of different widths: {aligned.shape}, {new.shape}.'
    )
  return _order(_squared_distance, aligned=aligned, new=new)


def gain(gains: np.ndarray) -> np.ndarray:
  """Largest true gain first: the head-room, what costs quality comes last."""
  return _order(lambda x: x, gains=gains)


def learnt_gain(predicted_gains: np.ndarray) -> np.ndarray:
  """Largest gain as learnt first: what is better left alone comes last."""
  return _order(lambda x: x, predicted_gains=predicted_gains)


def class_mean(aligned: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Farthest, by Euclidean distance, from the mean of its class first."""
  return _from_class_mean(_squared_distance, aligned, labels)


def class_mean_cosine(aligned: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Farthest, by cosine, from the mean of its class first."""
  return _from_class_mean(_cosine_distance, aligned, labels)


def class_mean_predicted(aligned: np.ndarray, logits: np.ndarray) -> np.ndarray:
  """`class_mean` with predicted classes in place of labels."""
  return _from_class_mean(_squared_distance, aligned, _predicted(logits))


def prototype(
  aligned: np.ndarray, logits: np.ndarray, class_weights: np.ndarray
) -> np.ndarray:
  """Farthest from its predicted class's weights first.

  By cosine: a classifier's weights have no length in common with embeddings.
  """
  shape = aligned.shape[1], logits.shape[1]
  if class_weights.shape != shape:
    raise ValueError(
      f'class_weights must be [embedding, class] = {shape}, got '
      f'{class_weights.shape}.'
    )
  _check_finite('class_weights', class_weights, 0)
  weights = np.asarray(class_weights, np.float64).T
  return _order(
    lambda embedding, label: _cosine_distance(embedding, weights[label]),
    aligned=aligned,
    predicted=_predicted(logits),
  )


def entropy(logits: np.ndarray) -> np.ndarray:
  """Largest entropy of the predicted classes first."""

  def score(logits):
    log_p = special.log_softmax(logits, axis=1)
    return -np.einsum('gc,gc->g', np.exp(log_p), log_p)

  return _order(score, logits=logits)


def neighbour_entropy(
  aligned: np.ndarray, train_new: np.ndarray, train_labels: np.ndarray
) -> np.ndarray:
  """Largest entropy of the labels of the nearest training items first.

  `entropy` for those who have no classifier: of the new embeddings of training
  examples, the 25 nearest to the aligned one, by Euclidean distance, among
  20,000 at most.
  """
  _check_labels(train_labels)
  some = np.linspace(0, len(train_new) - 1, min(20_000, len(train_new)))
  some = np.unique(some.astype(int))
  train = np.asarray(train_new[some], np.float32)
  _check_finite('train_new', train, 0)
  _, codes = np.unique(np.asarray(train_labels[some]), return_inverse=True)
  half_square = np.einsum('ne,ne->n', train, train) / 2
  k = min(25, len(train))

  def score(rows):
    nearness = rows.astype(np.float32) @ train.T - half_square
    nearest = np.argpartition(-nearness, k - 1, axis=1)[:, :k]
    labels = codes[nearest]
    # The mean of -log of each one's share is the entropy of all; sorted, so
    # that equal ones are equal to the last bit.
    same = labels[:, :, None] == labels[:, None, :]
    return -np.sort(np.log(same.mean(axis=2)), axis=1).mean(axis=1)

  return _order(score, 1024, aligned=aligned)


def sigma_entropy(log_variance: np.ndarray, logits: np.ndarray) -> np.ndarray:
  """By the mean of the ranks under `sigma` and `entropy`.

  One says how far off an item is, the other how much may lie in between.
  """
  return _by_mean_rank(sigma(log_variance), entropy(logits))


def sigma_neighbours(
  log_variance: np.ndarray,
  aligned: np.ndarray,
  train_new: np.ndarray,
  train_labels: np.ndarray,
) -> np.ndarray:
  """By the mean of the ranks under `sigma` and `neighbour_entropy`."""
  return _by_mean_rank(
    sigma(log_variance), neighbour_entropy(aligned, train_new, train_labels)
  )


def margin(logits: np.ndarray) -> np.ndarray:
  """Smallest difference of the two largest class probabilities first."""
  if logits.shape[1] < 2:
    raise ValueError(f'margin needs two classes, got logits {logits.shape}.')

  def score(logits):
    largest = np.partition(_probabilities(logits), -2, axis=1)[:, -2:]
    return largest[:, 0] - largest[:, 1]

  return _order(score, logits=logits)


def least_confidence(logits: np.ndarray) -> np.ndarray:
  """Smallest probability of the predicted class first."""
  return _order(
    lambda logits: -_probabilities(logits).max(axis=1), logits=logits
  )


POLICIES: dict[str, Callable[..., np.ndarray]] = {
  'random': random,
  'sigma': sigma,
  'distance': distance,
  'gain': gain,
  'learnt_gain': learnt_gain,
  'class_mean': class_mean,
  'class_mean_cosine': class_mean_cosine,
  'class_mean_predicted': class_mean_predicted,
  'prototype': prototype,
  'entropy': entropy,
  'neighbour_entropy': neighbour_entropy,
  'sigma_entropy': sigma_entropy,
  'sigma_neighbours': sigma_neighbours,
  'margin': margin,
  'least_confidence': least_confidence,
}


def reads(policy: Callable[..., np.ndarray]) -> tuple[str, ...]:
  """Names of the arrays a policy reads, such as ('aligned', 'labels')."""
  return tuple(inspect.signature(policy).parameters)


def make_order(name: str, **available: Any) -> np.ndarray:
  """An order, int [gallery], by the policy of this name, of what it reads.

  Raises:
    ValueError: if the policy is unknown, or an array it reads is missing (or
      None), not finite, or does not fit the others.
  """
  orders, left_out = make_orders([name], available)
  if left_out:
    raise ValueError(
      f'Policy {name} reads {", ".join(reads(POLICIES[name]))}; missing: '
      f'{", ".join(left_out[name])}.'
    )
  return orders[name]


def make_orders(
  names: Iterable[str], available: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
  """Orders of the policies whose inputs are there; what the others lack."""
  orders, left_out = {}, {}
  for name in names:
    policy = POLICIES[choices.check('policy', name, POLICIES)]
    given = {key: available.get(key) for key in reads(policy)}
    if missing := tuple(key for key, x in given.items() if x is None):
      left_out[name] = missing
    else:
      orders[name] = policy(**given)
  return orders, left_out


def _blocks(most: int = 2**62, **arrays: Any) -> Iterator[list[np.ndarray]]:
  """Blocks of `most` rows as float64 (integers as they are), checked."""
  lengths = {name: len(x) for name, x in arrays.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f'Arrays of different lengths: {lengths}.')
  width = max(int(np.prod(x.shape[1:])) for x in arrays.values())
  size = max(1, min(most, _BLOCK_BYTES // (8 * width)))
  for start in range(0, lengths.popitem()[1], size):
    block = []
    for name, x in arrays.items():
      rows = np.asarray(x[start : start + size])
      if not np.issubdtype(rows.dtype, np.integer):
        _check_finite(name, rows, start)
        rows = rows.astype(np.float64)
      block.append(rows)
    yield block


def _rows(function: Callable, *most: int, **arrays: Any) -> np.ndarray:
  """Applies a function of rows, block by block; returns [gallery]."""
  scores = [function(*block) for block in _blocks(*most, **arrays)]
  return np.concatenate(scores) if scores else np.zeros(0)


def _order(function: Callable, *most: int, **arrays: Any) -> np.ndarray:
  """By a function's score of rows, the largest first."""
  return np.argsort(-_rows(function, *most, **arrays), kind='stable')


def _check_finite(name, rows, start):
  finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
  if not finite.all():
    raise ValueError(
      f'{name} is not finite in row {start + int(np.argmin(finite))}.'
    )


def _check_labels(labels):
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'labels must be integers, got {labels.dtype}.')


def _predicted(logits):
  return _rows(lambda logits: logits.argmax(axis=1), logits=logits)


def _from_class_mean(far, aligned, labels):
  _check_labels(labels)
  classes, index = np.unique(labels, return_inverse=True)
  sums = np.zeros((len(classes), aligned.shape[1]))
  for embedding, label in _blocks(aligned=aligned, labels=index):
    # Rows sorted by class: reduceat adds up runs, far faster than np.add.at.
    order = np.argsort(label, kind='stable')
    present, first = np.unique(label[order], return_index=True)
    sums[present] += np.add.reduceat(embedding[order], first)
  means = sums / np.bincount(index, minlength=len(classes))[:, None]
  return _order(
    lambda embedding, label: far(embedding, means[label]),
    aligned=aligned,
    labels=index,
  )


def _by_mean_rank(*orders):
  return np.argsort(sum(np.argsort(order) for order in orders), kind='stable')


def _squared_distance(a, b):
  """Squared: the order is the same, and small differences are kept."""
  return np.einsum('ge,ge->g', a - b, a - b)


def _cosine_distance(a, b):
  """1 - cosine; 1 where an embedding is all zero."""
  square = np.einsum('ge,ge->g', a, a) * np.einsum('ge,ge->g', b, b)
  dot = np.einsum('ge,ge->g', a, b)
  return 1 - dot / np.sqrt(np.where(square > 0, square, 1))


def _probabilities(logits):
  return np.exp(special.log_softmax(logits, axis=1))
