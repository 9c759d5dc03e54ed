"""Rivals' losses against their formulas, written as loops over all items."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import parallel
from fastfill_jax.methods import contrastive, encoder_terms, terms

DEVICES, EACH, WIDTH = 2, 4, 3
# One class has one item only: a query without positives.
LABEL = np.array([0, 1, 1, 2, 2, 0, 2, 3])
SQUARE, TEMPERATURE = 5.0, 0.3


def make_batch(seed=0, **widths):
  generator = np.random.default_rng(seed)
  widths = {'aligned': WIDTH, 'query': WIDTH, 'old': WIDTH} | widths
  shape = (DEVICES * EACH,)
  return {
    name: generator.normal(size=(*shape, width)).astype(np.float32)
    for name, width in widths.items()
  } | {'label': LABEL}


def split(batch, devices=DEVICES):
  return jax.tree.map(
    lambda x: jnp.reshape(x, (devices, -1, *x.shape[1:])), batch
  )


def on_devices(term, batch):
  """A term of a batch that is split over devices, [batch]."""
  mapped = jax.vmap(lambda share: term(**share), axis_name=parallel.AXIS)
  return np.asarray(jax.jit(mapped)(split(batch))).reshape(-1)


def near(a, b):
  return -np.sum((a - b) ** 2) / (TEMPERATURE * SQUARE)


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b) / TEMPERATURE


def contrast(similarity, positives, candidates):
  """-mean over positives of log(exp s / sum over candidates of exp s)."""
  if not positives:
    return 0.0
  total = np.log(sum(np.exp(similarity(x)) for x in candidates))
  return np.mean([total - similarity(x) for x in positives])


def by_class(i):
  """Others of the item's class, and the items of other classes."""
  items = range(len(LABEL))
  return (
    [j for j in items if LABEL[j] == LABEL[i] and j != i],
    [j for j in items if LABEL[j] != LABEL[i]],
  )


def mixed_by_loops(query, gallery):
  values = []
  for i, q in enumerate(query):
    same, others = by_class(i)
    values.append(
      contrast(lambda j, q=q: near(q, gallery[j]), same, same + others)
    )
  return values


def bound(term, **options):
  return functools.partial(term, temperature=TEMPERATURE, **options)


def test_info_nce_has_the_own_item_before_all_others():
  batch = make_batch()
  del batch['old'], batch['label']
  aligned, items = batch['aligned'], range(len(LABEL))
  expected = [
    contrast(lambda j, q=q: near(q, aligned[j]), [i], items)
    for i, q in enumerate(batch['query'])
  ]
  term = bound(terms.TERMS['info_nce'], new_square=SQUARE)
  np.testing.assert_allclose(on_devices(term, batch), expected, rtol=1e-5)


def mixed_term(seed, mask):
  def term(**batch):
    key = parallel.device_key(jax.random.key(seed))
    none = jnp.zeros(len(batch['query']))
    return bound(terms.TERMS['mixed'], mask=mask)(
      aligned_offset=none,
      stored=batch['query'],
      stored_offset=none,
      new_square=SQUARE,
      key=key,
      **batch,
    )

  return term


def test_contrastive_without_mask_is_of_aligned_items():
  batch = make_batch()
  del batch['old']
  expected = mixed_by_loops(batch['query'], batch['aligned'])
  assert expected[-1] == 0
  values = on_devices(mixed_term(0, 'none'), batch)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def backfilled(seeds, batch):
  """Items on which no loss depends through aligned, bool [seed, batch]."""

  def loss(aligned, seed):
    shares = split(batch | {'aligned': aligned})
    term = mixed_term(seed, 'random')
    return jnp.sum(
      jax.vmap(lambda x: term(**x), axis_name=parallel.AXIS)(shares)
    )

  grad = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
  return ~np.asarray(grad(batch['aligned'], jnp.array(seeds))).any(axis=2)


def test_mixed_is_of_a_gallery_of_which_a_random_share_is_new():
  batch = make_batch()
  del batch['old']
  masks = backfilled(range(100), batch)
  for seed in (0, 1, 2):
    gallery = np.where(masks[seed][:, None], batch['query'], batch['aligned'])
    np.testing.assert_allclose(
      on_devices(mixed_term(seed, 'random'), batch),
      mixed_by_loops(batch['query'], gallery),
      rtol=2e-5,
    )
  shares = masks.mean(axis=1)
  assert abs(shares.mean() - 0.5) < 0.15
  # One share for all devices: their halves go together. Of U[0, 1] shares the
  # standard deviation over batches is sqrt(1/12 + 1/(6 * 8)) = 0.32, of
  # independent items sqrt(1/(4 * 8)) = 0.18.
  assert shares.std() > 0.25
  halves = masks.reshape(-1, DEVICES, EACH).mean(axis=2)
  assert np.corrcoef(halves.T)[0, 1] > 0.3


def test_metric_compatible_has_negatives_of_both_halves():
  batch = make_batch()
  del batch['old']
  halves = batch['aligned'], batch['query']
  expected = []
  for i, q in enumerate(batch['query']):
    same, others = by_class(i)
    values = [
      contrast(
        lambda item, q=q: near(q, halves[item[0]][item[1]]),
        [(half, j) for j in same],
        [(half, j) for j in same]
        + [(h, j) for h, j in itertools.product((0, 1), others)],
      )
      for half in (0, 1)
    ]
    expected.append(np.mean(values))
  term = bound(terms.TERMS['metric_compatible'], new_square=SQUARE)
  np.testing.assert_allclose(on_devices(term, batch), expected, rtol=2e-5)


@pytest.mark.parametrize(
  'name, other', [('contrast', 'query'), ('contrast_old', 'old')]
)
def test_class_contrast_by_the_coordinates_that_both_have(name, other):
  batch = make_batch(**{other: WIDTH - 1})
  del batch[{'query': 'old', 'old': 'query'}[other]]
  expected = []
  for i, x in enumerate(batch['aligned']):
    same, others = by_class(i)
    expected.append(
      contrast(
        lambda j, x=x: cosine(x[: WIDTH - 1], batch[other][j]),
        [i, *same],
        [i, *same, *others],
      )
    )
  values = on_devices(bound(terms.TERMS[name]), batch)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_ract_has_negatives_of_both_encoders():
  batch = make_batch()
  new, old = batch['query'], batch['old']
  expected = []
  for i in range(len(LABEL)):
    _, others = by_class(i)
    items = [(old, i)] + [(x, j) for x in (old, new) for j in others]
    expected.append(
      contrast(
        lambda item, i=i: cosine(new[i], item[0][item[1]]), items[:1], items
      )
    )
  given = {'embedding': new, 'teacher_embedding': old, 'label': LABEL}
  values = on_devices(bound(encoder_terms.ract), given)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_gradients_of_devices_are_those_of_one_batch():
  batch = make_batch()
  del batch['old']
  kernel = np.eye(WIDTH, dtype=np.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(devices):
    def loss(kernel, share):
      aligned, query = share['aligned'] @ kernel, share['query'] @ kernel
      return jnp.mean(
        terms.TERMS['metric_compatible'](aligned, query, share['label'], SQUARE)
      )

    grads = jax.vmap(
      jax.grad(loss), in_axes=(None, 0), axis_name=parallel.AXIS
    )(kernel, split(batch, devices))
    return jnp.mean(grads, axis=0)

  np.testing.assert_allclose(gradient(4), gradient(1), rtol=1e-4, atol=1e-5)


def test_everywhere_on_real_devices():
  given = np.arange(8, dtype=np.float32)

  def function(x):
    return parallel.everywhere(x)

  rows, own = parallel.pmap(function, in_axes=(0,), out_axes=0)(
    parallel.shard(given)
  )
  assert parallel.device_count() == 4
  np.testing.assert_array_equal(rows, np.tile(given, (4, 1)))
  np.testing.assert_array_equal(own.reshape(8, 8), np.eye(8, dtype=bool))


def _simclr_on(devices, kernel, views):
  """SimCLR of [view, image, pixel] @ kernel, split over devices; [image]."""

  def one(share):
    logits = jnp.concatenate([*share]) @ kernel
    return encoder_terms.simclr(logits, temperature=0.2)

  split = jnp.stack(jnp.split(views, devices, axis=1))
  return jnp.ravel(jax.vmap(one, axis_name=parallel.AXIS)(split))


def test_simclr_equals_its_statement_on_one_and_four_devices():
  views, kernel = jax.random.normal(jax.random.key(0), (2, 8, 6)), jnp.eye(6, 3)
  both = np.concatenate([*np.asarray(views @ kernel)])
  both /= np.linalg.norm(both, axis=1, keepdims=True)
  values = []
  for i, x in enumerate(both):
    similarity = np.exp(both @ x / 0.2)
    positive = similarity[(i + 8) % 16]
    values.append(-np.log(positive / (similarity.sum() - similarity[i])))
  expected = (np.array(values[:8]) + values[8:]) / 2
  slope = jax.grad(lambda k, n: jnp.mean(_simclr_on(n, k, views)))
  for devices in (1, 4):
    values = _simclr_on(devices, kernel, views)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(
      slope(kernel, devices), slope(kernel, 1), rtol=1e-4, atol=1e-6
    )


def test_projections_of_zeros_have_finite_slopes():
  slope = jax.grad(lambda k: jnp.sum(_simclr_on(1, k, jnp.ones((2, 3, 2)))))
  assert np.isfinite(slope(jnp.zeros((2, 3)))).all()


def test_influence_is_of_the_old_classifiers_own_classes():
  embedding = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], np.float32)
  weights = np.array([[1.0, 0.0, 9.0], [0.0, 1.0, 9.0]], np.float32)
  given = jnp.array([0, 0, 2]), weights, jnp.array([True, True, False])
  # Logits [1, 0] and [0, 2] of class 0; class 2 is not known.
  expected = [np.log(1 + np.exp(-1)), np.log(1 + np.exp(2)), 0]
  np.testing.assert_allclose(
    encoder_terms.influence(embedding, *given), expected, rtol=1e-6
  )
  grad = jax.grad(lambda x: jnp.sum(encoder_terms.influence(x, *given)))
  assert np.isfinite(grad(embedding)).all()
  np.testing.assert_array_equal(grad(embedding)[2], 0)


def test_orthogonality_lets_go_below_its_threshold():
  # |4 I - I| = 3 sqrt(2), and lambda sqrt(2) times the threshold.
  far = 3 * np.sqrt(2)
  given = jnp.zeros((5, 2))
  values = terms.orthogonality(
    2 * jnp.eye(2), given, threshold=2**0.5, slope=1.0
  )
  np.testing.assert_allclose(values, far / (1 + np.exp(2 - far)), rtol=1e-6)
  assert values.shape == (5,)
  low = terms.orthogonality(2 * jnp.eye(2), given, threshold=6.4, slope=10.0)
  assert low.max() < 1e-6
  grad = jax.grad(lambda x: terms.orthogonality(x, given).sum())
  assert np.isfinite(grad(jnp.eye(2))).all()


def test_backward_is_the_squared_error_of_common_coordinates():
  query, old = jnp.array([[1.0, 2.0, 9.0]]), jnp.array([[3.0, 5.0]])
  np.testing.assert_array_equal(terms.backward(query, old), [[4.0, 9.0]])


def test_ranked_is_stable_far_from_zero():
  near_by = jnp.array([[-2000.0, -1999.0]])
  value = contrastive.ranked(
    near_by, jnp.array([[True, False]]), jnp.ones((1, 2), bool)
  )
  np.testing.assert_allclose(value, np.log(1 + np.e), rtol=1e-4)
