import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import losses

BATCH, EMBEDDING, CLASSES = 6, 4, 5


def make_batch(seed=0):
  generator = np.random.default_rng(seed)
  return {
    'aligned': generator.normal(size=(BATCH, EMBEDDING)),
    'new': generator.normal(size=(BATCH, EMBEDDING)),
    'kernel': generator.normal(size=(EMBEDDING, CLASSES)),
    'labels': generator.integers(CLASSES, size=BATCH),
    'example': generator.normal(size=BATCH),
    'coordinate': generator.normal(size=(BATCH, EMBEDDING)),
  }


def softmax(logits):
  e = np.exp(logits - logits.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def statement(batch, l2_weight, disc_weight, uncertainty):
  """The loss and its gradients in aligned and s, by hand, in float64."""
  h, new, w = batch['aligned'], batch['new'], batch['kernel']
  p = softmax(h @ w)
  target = 0.9 * np.eye(CLASSES)[batch['labels']] + 0.1 / CLASSES
  disc = -np.sum(target * np.log(p), 1)
  disc_h = (p - target) @ w.T
  error = (h - new) ** 2
  l2, l2_h = error.mean(1), 2 * (h - new) / EMBEDDING
  total = l2_weight * l2 + disc_weight * disc
  total_h = l2_weight * l2_h + disc_weight * disc_h
  if uncertainty == 'none':
    return total, total_h, None
  s = batch[uncertainty]
  if uncertainty == 'example':
    half = 0.5 * np.exp(-s)
    return half * total + s / 2, half[:, None] * total_h, 0.5 - half * total
  half = 0.5 * np.exp(-s)
  half_mean = 0.5 * np.exp(-s.mean(1))
  value = (
    l2_weight * (half * error).mean(1)
    + disc_weight * half_mean * disc
    + s.mean(1) / 2
  )
  in_h = l2_weight * half * l2_h + disc_weight * half_mean[:, None] * disc_h
  in_s = (
    0.5 - l2_weight * half * error - disc_weight * (half_mean * disc)[:, None]
  ) / EMBEDDING
  return value, in_h, in_s


@pytest.mark.parametrize('uncertainty', ['none', 'example', 'coordinate'])
@pytest.mark.parametrize('weights', [(1, 0), (0, 1), (1, 1), (0.5, 2)])
def test_every_subset_equals_its_float64_statement(uncertainty, weights):
  batch = make_batch()
  log_variance = batch.get(uncertainty)
  l2_weight, disc_weight = weights

  def loss(aligned, log_variance):
    logits = aligned @ jnp.array(batch['kernel'])
    disc = losses.cross_entropy(logits, jnp.array(batch['labels']), 0.1)
    l2 = losses.squared_error(aligned, jnp.array(batch['new']))
    return losses.uncertain([l2_weight * l2, disc_weight * disc], log_variance)

  value, in_h, in_s = statement(batch, *weights, uncertainty)
  h = jnp.array(batch['aligned'])
  s = None if log_variance is None else jnp.array(log_variance)
  got, pull_back = jax.vjp(loss, h, s)
  got_h, got_s = pull_back(jnp.ones(BATCH))
  np.testing.assert_allclose(got, value, rtol=1e-5)
  np.testing.assert_allclose(got_h, in_h, rtol=1e-4, atol=1e-6)
  if in_s is not None:
    np.testing.assert_allclose(got_s, in_s, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('uncertainty', ['none', 'example', 'coordinate'])
def test_the_statements_gradients_are_finite_differences(uncertainty):
  batch, step = make_batch(), 1e-6
  _, in_h, in_s = statement(batch, 1, 1, uncertainty)
  for name, gradient in (('aligned', in_h), (uncertainty, in_s)):
    if gradient is None:
      continue
    for index in np.ndindex(gradient.shape):
      values = []
      for sign in (1, -1):
        moved = batch | {name: batch[name].copy()}
        moved[name][index] += sign * step
        values.append(statement(moved, 1, 1, uncertainty)[0].sum())
      np.testing.assert_allclose(
        (values[0] - values[1]) / (2 * step), gradient[index], atol=1e-7
      )


def test_smoothed_cross_entropy_by_hand():
  p = np.array([0.5, 0.25, 0.25])
  logits = jnp.log(jnp.array([p, p])) + 3  # a constant changes nothing
  everywhere = -np.log(p).mean()
  np.testing.assert_allclose(
    losses.cross_entropy(logits, jnp.array([0, 2]), 0.1),
    [
      0.9 * -np.log(0.5) + 0.1 * everywhere,
      0.9 * -np.log(0.25) + 0.1 * everywhere,
    ],
    rtol=1e-6,
  )


@pytest.mark.parametrize('label', [-1, 3])
def test_a_label_that_is_no_class_is_nan_not_another_class(label):
  loss = losses.cross_entropy(jnp.zeros((1, 3)), jnp.array([label]))
  assert np.isnan(loss).all()


def test_nll_is_least_at_the_log_of_the_expected_loss():
  loss = jnp.array([1.0, 2.0, 6.0])

  def mean(s):
    return losses.nll(loss, jnp.full(3, s)).mean()

  best = np.log((1 + 2 + 6) / 3)
  assert abs(jax.grad(mean)(best)) < 1e-6
  np.testing.assert_allclose(mean(best), 1 / 2 + best / 2, rtol=1e-6)
  assert mean(best) < min(mean(best - 0.1), mean(best + 0.1))


def test_equal_log_variances_per_coordinate_are_one_per_example():
  batch = {name: jnp.array(x) for name, x in make_batch().items()}
  errors = [
    losses.squared_error(batch['aligned'], batch['new']),
    jnp.exp(batch['aligned'][:, 0]),
  ]
  repeated = jnp.tile(batch['example'][:, None], (1, EMBEDDING))
  np.testing.assert_allclose(
    losses.uncertain(errors, repeated),
    losses.uncertain(errors, batch['example']),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: losses.squared_error(x, x[:, :1]), r'\(2, 3\) and \(2, 1\)'),
    (lambda x: losses.squared_error(x[0], x[0]), r'\(3,\)'),
    (lambda x: losses.cross_entropy(x, x[:, 0]), 'integers, got float32'),
    (lambda x: losses.cross_entropy(x, jnp.arange(3)), r'\(3,\)'),
    (lambda x: losses.cross_entropy(x, jnp.arange(2), 1.5), '1.5'),
    (lambda x: losses.nll(x[:, 0], x), r'\(2,\) and \(2, 3\)'),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.ones((2, 3)))
