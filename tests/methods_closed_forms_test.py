import numpy as np
import pytest
import scipy.linalg
import sklearn.linear_model

from fastfill_jax.methods import closed_forms


def make_pairs(n=200, old_dim=5, new_dim=5, noise=0.3, seed=0):
  generator = np.random.default_rng(seed)
  old = generator.normal(size=(n, old_dim)) * np.arange(1, old_dim + 1) + 4
  new = old @ generator.normal(size=(old_dim, new_dim)) - 2
  return old, new + noise * generator.normal(size=new.shape)


def collect(old, new, parts=3):
  return closed_forms.collect(
    zip(np.array_split(old, parts), np.array_split(new, parts), strict=True)
  )


def centred(old, new):
  return old - old.mean(0), new - new.mean(0)


@pytest.mark.parametrize('parts', [1, 3, 200, 250])
def test_moments_do_not_depend_on_the_blocks(parts):
  old, new = make_pairs()
  old, new = old + 1e6, new - 1e6  # where uncentred sums would cancel
  moments = collect(old, new, parts)
  centred_old, centred_new = centred(old, new)
  assert moments.count == 200
  np.testing.assert_allclose(moments.old_mean, old.mean(0))
  np.testing.assert_allclose(moments.new_mean, new.mean(0))
  np.testing.assert_allclose(moments.gram, centred_old.T @ centred_old)
  np.testing.assert_allclose(
    moments.cross, centred_old.T @ centred_new, rtol=1e-6, atol=1e-5
  )
  np.testing.assert_allclose(moments.new_square, np.sum(centred_new**2))


def test_identity_changes_nothing():
  old, new = make_pairs()
  params = closed_forms.identity(collect(old, new))
  old = old.astype(np.float32)
  np.testing.assert_array_equal(closed_forms.apply(params, old), old)


def test_procrustes_is_scipys_on_centred_pairs():
  old, new = make_pairs()
  params = closed_forms.procrustes(collect(old, new))
  expected, _ = scipy.linalg.orthogonal_procrustes(*centred(old, new))
  np.testing.assert_allclose(params.kernel, expected, atol=1e-6)
  np.testing.assert_allclose(
    closed_forms.apply(params, old),
    (old - old.mean(0)) @ expected + new.mean(0),
    rtol=1e-4,
    atol=1e-4,
  )


def test_procrustes_recovers_a_rotation():
  old, _ = make_pairs()
  rotation = scipy.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
  params = closed_forms.procrustes(collect(old, old @ rotation + 3))
  np.testing.assert_allclose(params.kernel, rotation, atol=1e-6)
  np.testing.assert_allclose(params.bias, np.full(5, 3), atol=1e-5)


@pytest.mark.parametrize('old_dim, new_dim', [(3, 5), (5, 3)])
def test_procrustes_of_other_widths_is_semi_orthogonal(old_dim, new_dim):
  old, new = make_pairs(old_dim=old_dim, new_dim=new_dim)
  kernel = closed_forms.procrustes(collect(old, new)).kernel
  inner = kernel @ kernel.T if old_dim < new_dim else kernel.T @ kernel
  np.testing.assert_allclose(inner, np.eye(3), atol=1e-6)
  # No semi-orthogonal map beside it has a larger covariance with new; where
  # old is the narrower, none has a smaller squared error.
  old, new = centred(old, new)
  generator = np.random.default_rng(2)
  for _ in range(50):
    moved = kernel + 0.1 * generator.normal(size=kernel.shape)
    u, _, vt = np.linalg.svd(moved, full_matrices=False)
    assert np.sum(old @ (u @ vt) * new) < np.sum(old @ kernel * new)
    if old_dim < new_dim:
      error = np.sum((old @ kernel - new) ** 2)
      assert error < np.sum((old @ (u @ vt) - new) ** 2)


@pytest.mark.parametrize('penalty', [1e-3, 10.0, 1e4])
@pytest.mark.parametrize('new_dim', [5, 8])
def test_ridge_is_sklearns(penalty, new_dim):
  old, new = make_pairs(new_dim=new_dim)
  params = closed_forms.ridge(collect(old, new), penalty)
  expected = sklearn.linear_model.Ridge(penalty).fit(old, new)
  np.testing.assert_allclose(params.kernel, expected.coef_.T, atol=1e-5)
  np.testing.assert_allclose(params.bias, expected.intercept_, atol=1e-4)
  np.testing.assert_allclose(
    closed_forms.apply(params, old), expected.predict(old), atol=1e-3
  )


def test_gcv_penalty_is_that_of_the_hat_matrix():
  found = set()
  for seed in range(30):
    # Few rows and much noise: the best penalty lies inside the grid.
    noise = 10 ** (seed / 20)
    pairs = make_pairs(n=12, old_dim=8, new_dim=3, noise=noise, seed=seed)
    moments = collect(*pairs)
    old, new = centred(*pairs)
    scale = np.trace(old.T @ old) / 8
    errors = {}
    for exponent in np.arange(-6, 2.5, 0.5):
      penalty = scale * 10.0**exponent
      hat = old @ np.linalg.solve(old.T @ old + penalty * np.eye(8), old.T)
      residual = np.sum((new - hat @ new) ** 2)
      errors[exponent] = residual / (12 - 1 - np.trace(hat)) ** 2
    best = min(errors, key=errors.get)
    found.add(best)
    penalty = closed_forms.gcv_penalty(moments)
    np.testing.assert_allclose(penalty, scale * 10.0**best)
    np.testing.assert_array_equal(
      closed_forms.ridge(moments).kernel,
      closed_forms.ridge(moments, penalty).kernel,
    )
  assert len(found) > 5


def test_ridge_stands_dead_and_repeated_coordinates():
  old, new = make_pairs()
  old = np.concatenate([old, old, np.zeros((200, 2))], axis=1)
  aligned = closed_forms.apply(closed_forms.ridge(collect(old, new)), old)
  assert np.mean((aligned - new) ** 2) < 0.1


@pytest.mark.parametrize(
  'call, message',
  [
    (closed_forms.identity, 'old 5 and new 3'),
    (lambda m: closed_forms.ridge(m, 0.0), 'penalty=0.0'),
    (lambda m: closed_forms.collect([]), 'No pairs'),
    (
      lambda m: closed_forms.collect([(np.ones((2, 3)), np.ones((1, 3)))]),
      r'\(2, 3\) and \(1, 3\)',
    ),
    (
      lambda m: closed_forms.collect([(np.eye(2),) * 2, (np.eye(3),) * 2]),
      r'widths \(3, 3\) after',
    ),
    (lambda m: closed_forms.collect([(np.eye(2) / [[0], [1]],) * 2]), 'NaN'),
    (
      lambda m: closed_forms.ridge(collect(np.ones((9, 2)), np.eye(9))),
      'equal',
    ),
    (
      lambda m: closed_forms.apply(closed_forms.ridge(m), np.ones((1, 4))),
      r'\[batch, 5\], got \(1, 4\)',
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with np.errstate(all='ignore'), pytest.raises(ValueError, match=message):
    call(collect(*make_pairs(new_dim=3)))
