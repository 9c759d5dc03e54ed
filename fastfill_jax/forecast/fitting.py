"""Alignments on plain arrays: the one place where the forecast fits anything.

  fitted = fitting.fit('l2+u', old, new)
  aligned, log_variance = fitted.align(stored)

Networks are FastFill's without its classifier (arXiv 2303.04766, section 4).
Both sides are centred and brought to unit variance by one number each, so that
one recipe fits unit vectors and long ones.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fastfill_jax import choices, losses
from fastfill_jax.methods import closed_forms
from fastfill_jax.models import alignment
from fastfill_jax.storage import artifact
from fastfill_jax.training import optim

_ROWS = 16_384  # Aligned at a time.
# Of networks: {name: uncertainty}.
_NETWORKS = {'l2': 'none', 'l2+u': 'example'}
_CLOSED = {
  'identity': closed_forms.identity,
  'procrustes': closed_forms.procrustes,
  'ridge': closed_forms.ridge,
}
METHODS = (*_CLOSED, *_NETWORKS)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a network is trained; closed forms need none of it.

  Attributes:
    hidden_dim: Width of the mixer's hidden layers.
    batch_size: Pairs a step.
    epochs: Passes over the pairs, if `max_steps` are not reached before.
    max_steps: Bounds the time that many pairs take.
    learning_rate: Adam's peak.
  """

  hidden_dim: int = 512
  batch_size: int = 256
  epochs: int = 30
  max_steps: int = 300
  learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Fitted:
  """An alignment: a method and its arrays."""

  method: str
  hidden_dim: int
  arrays: dict

  @property
  def has_uncertainty(self) -> bool:
    return _NETWORKS.get(self.method, 'none') != 'none'

  @property
  def digest(self) -> str:
    """Names the alignment by all that it computes with."""
    digest = hashlib.sha256(self.method.encode())
    for leaf in jax.tree.leaves(self.arrays):
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]

  def align(self, old) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps old embeddings into the new space.

    Args:
      old: [row, old embedding], an array or what slices to one.

    Returns:
      Aligned float32 [row, new embedding], and the log-variance [row] of its
      mean squared error over the coordinates, or None.

    Raises:
      ValueError: If old is not as wide as what was fitted.
    """
    parts = list(self.blocks(old))
    aligned = np.concatenate([aligned for aligned, _ in parts])
    if not self.has_uncertainty:
      return aligned, None
    return aligned, np.concatenate([log_variance for _, log_variance in parts])

  def blocks(self, old) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The same, block of rows after block."""
    for start in range(0, len(old), _ROWS):
      rows = np.asarray(old[start : start + _ROWS], np.float32)
      if self.method in _NETWORKS:
        yield self._apply(rows)
      else:
        yield closed_forms.apply(closed_forms.Affine(**self.arrays), rows), None

  def _apply(self, old):
    scale = self.arrays['scale']
    if old.ndim != 2 or old.shape[1] != len(scale['old_mean']):
      raise ValueError(
        f'old must be [row, {len(scale["old_mean"])}], got {old.shape}.'
      )
    # Few lengths, so that few programs serve all.
    rows = min(_ROWS, 1 << (len(old) - 1).bit_length())
    padded = np.pad(
      (old - scale['old_mean']) / scale['old'], ((0, rows - len(old)), (0, 0))
    )
    network = _network(self.method, len(scale['new_mean']), self.hidden_dim)
    aligned, log_variance = _forward(network, self.arrays['variables'], padded)
    aligned = np.asarray(aligned)[: len(old)] * scale['new'] + scale['new_mean']
    if log_variance is not None:
      log_variance = np.asarray(log_variance)[: len(old)]
      log_variance = log_variance + 2 * np.log(scale['new'])
    return aligned, log_variance

  def save(self, directory: pathlib.Path):
    """Writes the alignment into a folder."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    artifact.save_variables(directory / 'alignment.msgpack', self.arrays)
    held = {'method': self.method, 'hidden_dim': self.hidden_dim}
    artifact.write_text(directory / 'alignment.json', json.dumps(held))


def load(directory: pathlib.Path) -> Fitted:
  """Reads what `Fitted.save` wrote."""
  directory = pathlib.Path(directory)
  held = json.loads((directory / 'alignment.json').read_text())
  arrays = artifact.load_variables(directory / 'alignment.msgpack')
  return Fitted(**held, arrays=arrays)


def fit(
  method: str,
  old: np.ndarray,
  new: np.ndarray,
  *,
  label: np.ndarray | None = None,
  seed: int = 0,
  **recipe,
) -> Fitted:
  """Fits an alignment to pairs.

  Args:
    method: One of `METHODS`.
    old: [pair, old embedding].
    new: [pair, new embedding].
    label: int [pair]; no method here reads it.
    seed: Of the network's start and its batches.
    **recipe: Fields of `Recipe`.

  Raises:
    ValueError: If the method is unknown or the pairs do not fit.
  """
  del label
  check(method, old.shape[1], new.shape[1])
  settings = Recipe(**recipe)
  if method in _CLOSED:
    blocks = (
      (old[start : start + _ROWS], new[start : start + _ROWS])
      for start in range(0, len(old), _ROWS)
    )
    params = _CLOSED[method](closed_forms.collect(blocks))
    return Fitted(method, 0, params._asdict())
  return Fitted(
    method, settings.hidden_dim, _train(method, old, new, seed, settings)
  )


def check(method: str, old_dim: int, new_dim: int):
  """Raises a ValueError if a method is unknown or needs other widths."""
  choices.check('method', method, METHODS)
  if method == 'identity' and old_dim != new_dim:
    raise ValueError(
      f'identity needs embeddings of one width, got {old_dim} and {new_dim}.'
    )


@functools.cache
def _network(method, new_dim, hidden_dim):
  return alignment.Alignment(
    new_dim, hidden_dim=hidden_dim, uncertainty=_NETWORKS[method]
  )


@functools.cache  # Fits of one length share their program.
def _optimizer(learning_rate, steps):
  return optim.make_optimizer(
    'adam', learning_rate, num_steps=steps, warmup_steps=steps // 10
  )


@functools.partial(jax.jit, static_argnums=0)
def _forward(network, variables, old):
  return network.apply(variables, old, train=False)


def _train(method, old, new, seed, recipe):
  """Returns the arrays of a trained network."""
  old, new = np.asarray(old, np.float32), np.asarray(new, np.float32)
  scale = {}
  for name, rows in (('old', old), ('new', new)):
    scale[f'{name}_mean'] = rows.mean(axis=0)
    scale[name] = np.float32(max(rows.std(axis=0).mean(), 1e-12))
  batch = min(recipe.batch_size, len(old))
  steps = min(recipe.epochs * (len(old) // batch), recipe.max_steps)
  network = _network(method, new.shape[1], recipe.hidden_dim)
  optimizer = _optimizer(recipe.learning_rate, steps)
  rng = np.random.default_rng(seed)
  epochs = -(-steps * batch // len(old)) + 1
  rows = np.concatenate([rng.permutation(len(old)) for _ in range(epochs)])
  variables = network.init(jax.random.key(seed), jnp.zeros((1, old.shape[1])))
  state = variables, optimizer.init(variables['params'])
  for step in range(steps):
    mine = rows[step * batch : (step + 1) * batch]
    state, loss = _step(
      network,
      optimizer.update,
      state,
      (old[mine] - scale['old_mean']) / scale['old'],
      (new[mine] - scale['new_mean']) / scale['new'],
    )
  if not np.isfinite(loss):
    raise FloatingPointError(f'{method}: the last loss is {loss}.')
  return jax.device_get({'variables': state[0], 'scale': scale})


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(network, update, state, old, new):
  """One step of Adam; the state is (variables, optimiser's state)."""
  variables, opt_state = state

  def loss_fn(params):
    (aligned, log_variance), changed = network.apply(
      variables | {'params': params}, old, train=True, mutable=['batch_stats']
    )
    error = losses.squared_error(aligned, new)
    loss = losses.uncertain([error], log_variance)
    return jnp.mean(loss), changed

  (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    variables['params']
  )
  updates, opt_state = update(grads, opt_state, variables['params'])
  params = optax.apply_updates(variables['params'], updates)
  return ({'params': params} | changed, opt_state), loss
