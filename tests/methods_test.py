"""Definitions of methods: their fields, terms and what they read."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfill_jax import methods
from fastfill_jax.methods import encoder_terms, terms


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'name': 'ridgge'}, "Unknown method 'ridgge', did you mean 'ridge'"),
    ({'name': 'ridge', 'penalti': 1.0}, "'penalti', did you mean 'penalty'"),
    ({'name': 'ridge', 'error': {}}, "key of method 'ridge' 'error'"),
    ({'name': 'fct', 'network': None}, "key of method 'fct' 'network'"),
    ({'name': 'fct', 'acts_on': 'gallary'}, "did you mean 'gallery'"),
    ({'name': 'fct', 'uncertainty': 'both'}, "uncertainty 'both'"),
    ({'name': 'fct', 'error': {'dics': 1.0}}, "'dics', did you mean 'disc'"),
    ({'name': 'fct', 'error': {'l2': -1.0}}, "'l2' is -1.0; not below 0"),
    ({'name': 'fct', 'error': {'l2': 0.0}}, "'l2': 0.0} of the loss are all 0"),
    ({'name': 'fct', 'error': {}}, 'the loss are all 0'),
    (
      {'name': 'fct', 'error': {'l2': {'weight': 1.0, 'wheight': 2.0}}},
      "key of term 'l2' 'wheight', did you mean 'weight'",
    ),
    ({'name': 'fct', 'options': {'hidden_dim': 0}}, 'hidden_dim=0'),
    (
      {'name': 'fct', 'options': {'hiden_dim': 8}},
      "options of a method 'hiden_dim', did you mean 'hidden_dim'",
    ),
    (
      {'name': 'fastfill', 'acts_on': 'query'},
      "acts_on='query' leaves the gallery as it is",
    ),
    (
      {'name': 'fastfill', 'error': {}, 'terms': {'l2': 1.0}},
      "uncertainty='example' has no error to predict",
    ),
  ],
)
def test_bad_definitions_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    methods.make(**changes)


def test_what_a_method_reads():
  def reads(name, **changes):
    return methods.make(name, **changes).reads

  assert reads('ridge') == reads('fct') == ()
  assert reads('fastfill') == ('classifier', 'label')
  assert reads('fct', side=True) == ('side',)
  assert reads('fastfill', error={'l2': 1.0}) == ()


@pytest.mark.parametrize('module', [terms, encoder_terms])
def test_every_term_declares_what_it_reads(module):
  """By the names that its module's docstring explains."""
  for name, term in module.TERMS.items():
    assert terms.reads(term), name
    for read in terms.reads(term):
      assert read in module.__doc__.replace(',', ' ').split(), (name, read)
    for parameter in inspect.signature(term).parameters.values():
      optional = parameter.kind is inspect.Parameter.KEYWORD_ONLY
      assert optional == (parameter.default is not inspect.Parameter.empty)


def test_weights_and_options_of_terms():
  parsed = terms.parse(
    {'classify': 2, 'simclr': {'weight': 0.5, 'temperature': 0.2}},
    encoder_terms.TERMS,
  )
  assert parsed == (
    {'classify': 2.0, 'simclr': 0.5},
    {'classify': {}, 'simclr': {'temperature': 0.2}},
  )


def test_terms_by_hand():
  aligned = jnp.array([[1.0, 2.0]])
  query = jnp.array([[0.0, 4.0]])
  np.testing.assert_array_equal(terms.l2(aligned, query), [[1, 4]])
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
  smoothed = 0.9 * -np.log(0.25) + 0.1 * -np.mean(np.log([0.5, 0.25, 0.25]))
  disc = terms.disc(logits, jnp.array([1]), 0.1)
  np.testing.assert_allclose(disc, [smoothed], rtol=1e-6)
  assert jax.grad(lambda x: terms.disc(x, jnp.array([1]), 0.1)[0])(logits)[
    0, 1
  ] == pytest.approx(0.25 - (0.9 + 0.1 / 3))
