"""Rivals' maps and rows: what they map, read and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from configs import base, digits, embeddings
from fastfill_jax import methods, parallel, policies
from fastfill_jax.methods import drift_adapter, lambda_orthogonality
from fastfill_jax.stages import gallery, request

WIDTH = 3


@pytest.mark.parametrize('relaxed', [False, True])
def test_unified_maps(relaxed):
  module = lambda_orthogonality.Unified(
    WIDTH, forward='affine', relaxed=relaxed
  )
  generator = np.random.default_rng(0)
  old, new = generator.normal(size=(2, 5, 4)).astype(np.float32)
  new = new[:, :WIDTH]
  variables = module.init(
    jax.random.key(0), old, None, new, False, method='outputs'
  )
  outputs = module.apply(variables, old, None, new, False, method='outputs')
  np.testing.assert_allclose(outputs['query'], new, atol=1e-6)  # at first
  change = generator.normal(size=variables['params']['change'].shape)
  variables['params']['change'] = jnp.array(change, jnp.float32)
  if relaxed:
    variables['params']['bias'] = jnp.array([1.0, 2.0, 3.0])
    kernel, bias = np.eye(WIDTH) + change, [1, 2, 3]
  else:
    a, b, c = change
    kernel = scipy.linalg.expm([[0, a, b], [-a, 0, c], [-b, -c, 0]])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(WIDTH), atol=1e-6)
    bias = [0, 0, 0]
  outputs = module.apply(variables, old, None, new, False, method='outputs')
  np.testing.assert_allclose(
    outputs['query'], new @ kernel + np.array(bias)[None], atol=1e-5
  )
  np.testing.assert_allclose(outputs['backward_kernel'], kernel, atol=1e-5)
  affine = variables['params']['forward_map']['affine']
  np.testing.assert_allclose(
    outputs['aligned'], old @ affine['kernel'] + affine['bias'][None], atol=1e-5
  )


@pytest.mark.parametrize('width', [WIDTH, 5])
def test_residual_map(width):
  module = drift_adapter.Residual(WIDTH, hidden_dim=4)
  x = np.random.default_rng(0).normal(size=(6, width)).astype(np.float32)
  (out, none), variables = module.init_with_output(jax.random.key(0), x)
  p = jax.tree.map(np.asarray, variables['params'])
  hidden = x @ p['hidden']['kernel'] + p['hidden']['bias']
  cubic = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
  hidden = hidden * (1 + np.tanh(cubic)) / 2
  straight = x if width == WIDTH else x @ p['straight']['kernel']
  expected = straight + hidden @ p['out']['kernel'] + p['out']['bias']
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert none is None


def fit(tmp_path, name, views, num_epochs=150, **changes):
  recipe = base.get_config().align.to_dict() | {
    'batch_size': 32,
    'num_epochs': num_epochs,
    'warmup_epochs': 1,
    'optimizer': {'name': 'adam', 'learning_rate': 0.03, 'weight_decay': 0.0},
  }
  how = parallel.How(parallel.Preemption())
  method = methods.make(name, **changes)
  directory = tmp_path / name / 'seed0'
  directory.mkdir(parents=True)
  method.fit(directory, how, [views], None, recipe, 0)
  return method.load(directory)


def test_a_low_rank_query_finds_the_old_space(tmp_path):
  generator = np.random.default_rng(0)
  new = generator.normal(size=(64, 5)).astype(np.float32)
  old = new @ generator.normal(size=(5, 2)) @ generator.normal(size=(2, 3))
  old = (old + 1).astype(np.float32)
  maps = fit(
    tmp_path, 'low_rank', {'old': old, 'new': new}, options={'rank': 2}
  )
  np.testing.assert_array_equal(maps.align(old)[0], old)
  np.testing.assert_allclose(maps.query(new), old, atol=0.15)


def test_orthogonal_turns_the_query_and_keeps_its_distances(tmp_path):
  generator = np.random.default_rng(0)
  old = generator.normal(size=(64, WIDTH)).astype(np.float32)
  turn = scipy.linalg.expm([[0, 1, 0.5], [-1, 0, 0.3], [-0.5, -0.3, 0]])
  new = (old @ turn.T).astype(np.float32)
  views = {'old': old, 'new': new, 'label': np.arange(64) % 8}
  maps = fit(
    tmp_path,
    'orthogonal',
    views,
    terms={'backward': 1.0, 'contrast': 0.01},
    options={'forward': 'affine'},
  )
  query = maps.query(new)
  np.testing.assert_allclose(query @ query.T, new @ new.T, atol=1e-3)
  np.testing.assert_allclose(query, old, atol=0.2)
  np.testing.assert_allclose(maps.align(old)[0], query, atol=0.3)


@pytest.mark.parametrize(
  'name, changes, message',
  [
    ('mixed', {'terms': {'mixed': {'mask': 'half'}}}, 'known: random, none'),
    ('mixed', {'terms': {'mixed': {'temperature': 0}}}, 'a positive number'),
    ('low_rank', {'options': {'rank': 0}}, 'rank=0'),
    ('low_rank', {'uncertainty': 'example'}, "acts_on='query'"),
    ('orthogonal', {'options': {'forward': 'no'}}, 'known: network, affine'),
    (
      'orthogonal',
      {'uncertainty': 'example', 'options': {'forward': 'affine'}},
      "forward='network'",
    ),
  ],
)
def test_wrong_values_are_refused(name, changes, message):
  with pytest.raises(ValueError, match=message):
    methods.make(name, **changes)


def test_what_methods_read():
  assert methods.make('info_nce').reads == ()
  assert methods.make('residual').reads == ()
  for name in ('mixed', 'metric_compatible', 'orthogonal'):
    assert methods.make(name).reads == ('label',)


def test_no_policy_compares_a_turned_gallery_with_the_new_classifier():
  aligned = np.zeros((4, WIDTH))
  available = gallery.readable({}, 'new', aligned, None, 0, None)
  names = ['random', 'entropy', 'prototype']
  orders, left_out = policies.make_orders(names, available)
  assert list(orders) == ['random']
  assert left_out['entropy'] == ('logits',)


def test_forms_with_rivals_are_valid():
  for config in (digits.get_config('rivals'), embeddings.get_config('rivals')):
    request.check(config)
  pairs = embeddings.get_config('rivals_of_pairs')
  for row in pairs.alignments.to_dict().values():
    assert methods.make(row.pop('method'), **row).reads == ()


@pytest.mark.parametrize('name', ['bct', 'ract'])
def test_compatible_encoders_are_as_wide_as_the_old_one(name):
  config = digits.get_config('rivals')
  config.encoders[name].encoder.embedding_dim = 32
  with pytest.raises(ValueError, match='of one width: embedding_dim=32 and 16'):
    request.check(config)


def test_influence_reads_a_linear_classifier():
  config = digits.get_config('rivals')
  config.encoders.old.head = {'name': 'arcface'}
  with pytest.raises(ValueError, match="'arcface', not 'linear'"):
    request.check(config)
