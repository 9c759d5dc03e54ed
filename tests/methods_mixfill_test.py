"""Mixfill: its loss as loops, its offsets as distances, what it stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import methods, parallel
from fastfill_jax.methods import mixfill, terms

_LABEL = np.array([0, 1, 1, 2, 2, 0, 2, 3])  # class 3 has one item
_SQUARE, _TEMPERATURE = 5.0, 0.3


def _level(**options):
  network = mixfill.Level(
    new_dim=3, hidden_dim=8, uncertainty='example', **options
  )
  rng = np.random.default_rng(0)
  old, new = rng.normal(size=(2, 8, 3)).astype(np.float32)
  variables = network.init(
    jax.random.key(0), old, None, new, False, method='outputs'
  )
  stats = variables['batch_stats'] | {'new_square': jnp.float32(_SQUARE)}
  return network, dict(variables) | {'batch_stats': stats}, old, new


def _by_loops(gallery, offset, query):
  """Each and any, [query], of a gallery and its offsets."""
  each, found = [], []
  for i, q in enumerate(query):
    others = [j for j in range(len(query)) if j != i]
    score = {
      j: -(np.sum((q - gallery[j]) ** 2) + offset[j]) / (_TEMPERATURE * _SQUARE)
      for j in others
    }
    total = sum(np.exp(x) for x in score.values())
    p = {j: np.exp(score[j]) / total for j in others}
    own = [p[j] for j in others if _LABEL[j] == _LABEL[i]]
    each.append(np.mean(-np.log(own)) if own else 0)
    found.append(-np.log(np.sum(own)) if own else 0)
  return np.array(each), np.array(found)


@pytest.mark.parametrize('over', ['each', 'any', 'both'])
def test_the_loss_is_that_of_a_gallery_with_offsets(over):
  rng = np.random.default_rng(1)
  aligned, stored, query = rng.normal(size=(3, 8, 4)).astype(np.float32)
  offsets = rng.uniform(0, 3, (2, 8)).astype(np.float32)

  def term(aligned, stored, query, label, aligned_offset, stored_offset):
    return terms.TERMS['mixed'](
      aligned,
      aligned_offset,
      stored,
      stored_offset,
      query,
      label,
      _SQUARE,
      jax.random.key(0),
      mask='none',
      over=over,
      temperature=_TEMPERATURE,
    )

  batch = (aligned, stored, query, _LABEL, *offsets)
  halves = [jnp.reshape(x, (2, 4, *x.shape[1:])) for x in batch]
  values = jax.vmap(term, axis_name=parallel.AXIS)(*halves).reshape(-1)
  each, found = _by_loops(aligned, offsets[0], query)
  expected = {'each': each, 'any': found, 'both': (each + found) / 2}[over]
  np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-6)


def test_a_gradient_is_finite_where_a_class_is_alone():
  def loss(aligned):
    none = jnp.zeros(8)
    value = jax.vmap(
      lambda *x: terms.TERMS['mixed'](
        *x, _SQUARE, jax.random.key(0), over='any'
      ),
      axis_name=parallel.AXIS,
    )(*(x[None] for x in (aligned, none, aligned, none, aligned, _LABEL)))
    return jnp.sum(value)

  aligned = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
  assert np.isfinite(jax.grad(loss)(aligned)).all()


def test_the_added_coordinate_is_the_offset_of_the_squared_distance():
  network, variables, old, new = _level()
  aligned, log_variance = network.apply(variables, old)
  asked = network.apply(variables, new, method='query')
  held = network.apply(variables, old, None, new, False, method='outputs')
  assert aligned.shape == asked.shape == (8, 4)
  assert log_variance.shape == (8,)
  squares = np.sum((np.asarray(aligned) - np.asarray(asked)) ** 2, axis=1)
  plain = np.sum((np.asarray(held['aligned']) - new) ** 2, axis=1)
  np.testing.assert_allclose(squares, plain + held['aligned_offset'], rtol=1e-5)
  assert (np.asarray(held['aligned_offset']) > 0).all()
  np.testing.assert_array_equal(asked[:, 3], 0)


def test_what_is_stored_keeps_a_share_of_the_aligned_embedding():
  network, variables, old, new = _level(kept=0.25)
  aligned, _ = network.apply(variables, old)
  stored = network.apply(variables, new, aligned, method='store')
  np.testing.assert_allclose(
    stored[:, :3], 0.75 * new + 0.25 * np.asarray(aligned)[:, :3], rtol=1e-5
  )
  held = network.apply(variables, old, None, new, False, method='outputs')
  np.testing.assert_allclose(
    stored[:, 3] ** 2, held['stored_offset'], rtol=1e-5
  )


def test_a_share_out_of_range_is_refused():
  with pytest.raises(ValueError, match=r'kept=1\.5'):
    methods.make('mixfill', options={'kept': 1.5})


def test_it_reads_labels_and_no_classifier():
  assert methods.make('mixfill').reads == ('label',)
