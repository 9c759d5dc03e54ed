import jax
import jax.numpy as jnp
import models_inputs
import numpy as np
import pytest
import scipy.stats

from fastfill_jax.models import alignment

BATCH = 8


def plain(variables, old, side, train):
  """Branches, mixer and head, in NumPy and float64."""
  variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
  params, stats = variables['params'], variables['batch_stats']

  def dense(x, name):
    x = x @ params[name]['kernel']
    mean, variance = stats[f'{name}_norm']['mean'], stats[f'{name}_norm']['var']
    if train:
      mean, variance = x.mean(0), x.var(0)
    norm = params[f'{name}_norm']
    x = (x - mean) / np.sqrt(variance + 1e-5) * norm['scale'] + norm['bias']
    return np.maximum(x, 0)

  x = np.concatenate(
    [
      dense(dense(np.asarray(old, np.float64), 'old_0'), 'old_1'),
      dense(dense(np.asarray(side, np.float64), 'side_0'), 'side_1'),
    ],
    axis=1,
  )
  x = dense(dense(x, 'mixer_0'), 'mixer_1')
  aligned = x @ params['aligned']['kernel'] + params['aligned']['bias']
  if 'log_variance' not in params:
    return aligned, None
  head = params['log_variance']
  return aligned, aligned @ head['kernel'] + head['bias']


@pytest.mark.parametrize(
  'options, widths, expected',
  [
    ({'new_dim': 128}, [128], 5_712_000),
    ({'new_dim': 128, 'uncertainty': 'example'}, [128], 5_712_000 + 129),
    (
      {'new_dim': 128, 'uncertainty': 'coordinate'},
      [128],
      5_712_000 + 129 * 128,
    ),
    ({'new_dim': 768}, [384, 384], 15_026_689 - 769),
  ],
)
def test_parameter_counts(options, widths, expected):
  module = alignment.Alignment(**options)
  shapes = [(2, width) for width in widths]
  assert models_inputs.count(module, *shapes) == expected


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('uncertainty', alignment.UNCERTAINTIES)
@pytest.mark.parametrize('side_dim', [None, 2])
def test_it_is_its_plain_statement(uncertainty, train, side_dim):
  module = alignment.Alignment(4, hidden_dim=5, uncertainty=uncertainty)
  old = models_inputs.make((BATCH, 3))
  side = (
    None if side_dim is None else models_inputs.make((BATCH, side_dim), seed=2)
  )
  variables = models_inputs.fill(module, old, side)
  (aligned, log_variance), _ = module.apply(
    variables, old, side, train, mutable=['batch_stats']
  )
  expected, expected_log_variance = plain(
    variables, old, old if side is None else side, train
  )
  np.testing.assert_allclose(aligned, expected, rtol=1e-4, atol=1e-5)
  if uncertainty == 'none':
    assert log_variance is None
    return
  if uncertainty == 'example':
    assert log_variance.shape == (BATCH,)
    expected_log_variance = expected_log_variance[:, 0]
  np.testing.assert_allclose(
    log_variance, expected_log_variance, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('uncertainty', ['example', 'coordinate'])
def test_it_starts_as_pytorch_starts_it(uncertainty):
  module = alignment.Alignment(96, hidden_dim=64, uncertainty=uncertainty)
  params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((2, 32)))['params']
  norms = {name: params.pop(name) for name in list(params) if 'norm' in name}
  assert len(norms) == len(params) - 2  # none on the two outputs
  for layer in norms.values():
    np.testing.assert_array_equal(layer['scale'], 1)
    np.testing.assert_array_equal(layer['bias'], 0)
  for name, layer in params.items():
    assert set(layer) == (
      {'kernel', 'bias'} if name in ('aligned', 'log_variance') else {'kernel'}
    )
    bound = len(layer['kernel']) ** -0.5
    for values in map(np.ravel, layer.values()):
      assert np.abs(values).max() <= bound
      if len(values) == 1:
        assert values != 0
        continue
      # The deviation of a mean of squares of so many is 0.9 of it / sqrt(n).
      np.testing.assert_allclose(
        values.var(), bound**2 / 3, rtol=4 * 0.9 / len(values) ** 0.5
      )
      fit = scipy.stats.kstest(values / bound, 'uniform', (-1, 2))
      assert fit.pvalue > 1e-3, name


def test_frozen_batch_norm_still_learns_scale_and_bias():
  module = alignment.Alignment(4, hidden_dim=5)
  old = models_inputs.make((BATCH, 3))
  variables = models_inputs.fill(module, old)

  def loss(params):
    (aligned, _), changed = module.apply(
      variables | {'params': params}, old, mutable=['batch_stats']
    )
    return jnp.sum(aligned**2), changed['batch_stats']

  gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
  jax.tree.map(np.testing.assert_array_equal, stats, variables['batch_stats'])
  for name in ('scale', 'bias'):
    assert (gradient['mixer_0_norm'][name] != 0).any()


def test_four_devices_are_one():
  old = models_inputs.make((BATCH, 3))

  def step(module, variables, old):
    def loss(params):
      (aligned, log_variance), changed = module.apply(
        variables | {'params': params}, old, None, True, mutable=['batch_stats']
      )
      values = jnp.mean(aligned**2, axis=1) * jnp.exp(-log_variance)
      return values.mean(), changed['batch_stats']

    return jax.grad(loss, has_aux=True)(variables['params'])

  options = {'new_dim': 4, 'hidden_dim': 5, 'uncertainty': 'example'}
  one = alignment.Alignment(**options)
  four = alignment.Alignment(**options, axis_name='device')
  variables = models_inputs.fill(one, old)
  expected = jax.jit(lambda v, x: step(one, v, x))(variables, old)
  mapped = jax.pmap(
    lambda v, x: jax.lax.pmean(step(four, v, x), 'device'),
    axis_name='device',
    in_axes=(None, 0),
  )
  got = jax.block_until_ready(mapped(variables, old.reshape(4, 2, 3)))
  for copy in range(4):
    jax.tree.map(
      lambda a, b, copy=copy: np.testing.assert_allclose(
        a[copy], b, rtol=1e-3, atol=1e-5
      ),
      got,
      expected,
    )


@pytest.mark.parametrize(
  'options, message',
  [
    ({'new_dim': 4, 'uncertainty': 'both'}, "'both'.*coordinate"),
    ({'new_dim': 0}, 'new_dim=0'),
    ({'new_dim': 4, 'hidden_dim': -1}, 'hidden_dim=-1'),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    alignment.Alignment(**options)


def test_embeddings_of_different_batches_are_named():
  module = alignment.Alignment(4)
  with pytest.raises(ValueError, match=r'\(8, 3\) and \(2, 3\)'):
    module.init(
      jax.random.key(0),
      models_inputs.make((BATCH, 3)),
      models_inputs.make((BATCH, 3))[:2],
    )
