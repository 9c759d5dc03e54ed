import jax
import numpy as np
import pytest

from fastfill_jax import policies

_NOT_OF_ITEMS = ('key', 'class_weights', 'train_new', 'train_labels')
_BY_RANK = {
  'sigma_entropy': ('sigma', 'entropy'),
  'sigma_neighbours': ('sigma', 'neighbour_entropy'),
}


def make_gallery(n=60, seed=0):
  generator = np.random.default_rng(seed)
  aligned = generator.normal(size=(n, 4)).astype(np.float32)
  class_weights = generator.normal(size=(4, 5)).astype(np.float32)
  return {
    'key': jax.random.key(seed),
    'aligned': aligned,
    'log_variance': generator.normal(size=n).astype(np.float32),
    'logits': aligned @ class_weights,
    'class_weights': class_weights,
    'new': generator.normal(size=(n, 4)).astype(np.float32),
    'labels': generator.integers(3, size=n) * 7 - 1,
    'train_new': generator.normal(size=(40, 4)).astype(np.float32),
    'train_labels': generator.integers(4, size=40) * 5 - 2,
    'gains': generator.normal(size=n),
    'predicted_gains': generator.normal(size=n),
  }


def oracle_scores(name, gallery):
  """Row by row in plain NumPy; the largest score goes first."""
  if name in _BY_RANK:
    orders = [
      np.argsort(-oracle_scores(one, gallery), kind='stable')
      for one in _BY_RANK[name]
    ]
    return -sum(map(np.argsort, orders))
  scores = []
  logits = gallery['logits'].astype(np.float64)
  aligned = gallery['aligned'].astype(np.float64)
  predicted = logits.argmax(1)
  for i, h in enumerate(aligned):
    p = np.exp(logits[i]) / np.exp(logits[i]).sum()
    ranked = np.sort(p)
    own = aligned[gallery['labels'] == gallery['labels'][i]].mean(0)
    guessed = aligned[predicted == predicted[i]].mean(0)
    row = gallery['class_weights'][:, predicted[i]].astype(np.float64)
    far = np.linalg.norm(gallery['train_new'] - h, axis=1)
    near = gallery['train_labels'][np.argsort(far)[:25]]
    share = np.unique(near, return_counts=True)[1] / 25
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    scores.append(
      {
        'sigma': gallery['log_variance'][i],
        'distance': np.linalg.norm(h - gallery['new'][i]),
        'gain': gallery['gains'][i],
        'learnt_gain': gallery['predicted_gains'][i],
        'class_mean': np.linalg.norm(h - own),
        'class_mean_cosine': -cosine(h, own),
        'class_mean_predicted': np.linalg.norm(h - guessed),
        'prototype': -cosine(h, row),
        'entropy': -np.sum(p * np.log(p)),
        # Of few labels: equal entropies have to be equal here too.
        'neighbour_entropy': np.round(-np.sum(share * np.log(share)), 9),
        'margin': ranked[-2] - ranked[-1],
        'least_confidence': -p.max(),
      }[name]
    )
  return np.array(scores)


@pytest.mark.parametrize('name', sorted(set(policies.POLICIES) - {'random'}))
@pytest.mark.parametrize('block_bytes', [2**25, 8 * 5 * 7])
def test_order_is_the_plain_one_in_any_blocks(name, block_bytes, monkeypatch):
  monkeypatch.setattr(policies, '_BLOCK_BYTES', block_bytes)
  gallery = make_gallery()
  order = policies.make_order(name, **gallery)
  np.testing.assert_array_equal(
    order, np.argsort(-oracle_scores(name, gallery), kind='stable')
  )


@pytest.mark.parametrize('name', policies.POLICIES)
@pytest.mark.parametrize('n', [1, 60])
def test_every_order_is_a_permutation_of_int64(name, n):
  order = policies.make_order(name, **make_gallery(n))
  assert order.dtype == np.int64
  np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize('name', sorted(set(policies.POLICIES) - {'random'}))
def test_ties_go_by_index(name):
  gallery = make_gallery()
  two = {
    key: x if key in _NOT_OF_ITEMS else np.tile(x[:2].T, 500).T
    for key, x in gallery.items()
  }
  order = policies.make_order(name, **two)
  for same in (0, 1):
    np.testing.assert_array_equal(
      order[order % 2 == same], np.arange(same, 1000, 2)
    )


# Ranks and shares of neighbours are few: ties go by index, and move.
@pytest.mark.parametrize(
  'name',
  sorted({*policies.POLICIES} - {'random', 'neighbour_entropy', *_BY_RANK}),
)
def test_permuting_the_gallery_permutes_the_order(name):
  gallery = make_gallery()
  permutation = np.random.default_rng(1).permutation(60)
  permuted = {
    key: x if key in _NOT_OF_ITEMS else x[permutation]
    for key, x in gallery.items()
  }
  np.testing.assert_array_equal(
    permutation[policies.make_order(name, **permuted)],
    policies.make_order(name, **gallery),
  )


def test_random_follows_its_key():
  aligned = np.zeros((50, 1))
  orders = [
    policies.make_order('random', key=jax.random.key(seed), aligned=aligned)
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(orders[0], orders[1])
  assert (orders[0] != orders[2]).any()


def test_values_by_hand():
  labels = np.array([0, 0, 0, 1])
  # The mean of class 0 is (0 + 1 + 5) / 3 = 2; class 1 is its own mean.
  aligned = np.array([[0.0], [1.0], [5.0], [9.0]])
  np.testing.assert_array_equal(
    policies.make_order('class_mean', aligned=aligned, labels=labels),
    [2, 0, 1, 3],  # distances 3, 2, 1, 0
  )
  # Means (1 + 0) / 2, (0 + 4) / 2, (-1 - 1) / 2.
  log_variance = np.array([[1.0, 0.0], [0.0, 4.0], [-1.0, -1.0]])
  np.testing.assert_array_equal(
    policies.make_order('sigma', log_variance=log_variance), [1, 0, 2]
  )


def test_a_zero_embedding_has_cosine_zero():
  aligned = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
  class_weights = np.array([[1.0], [0.0]])
  order = policies.make_order(
    'prototype',
    aligned=aligned,
    logits=aligned @ class_weights,
    class_weights=class_weights,
  )
  np.testing.assert_array_equal(order, [2, 1, 0])


def test_huge_logits_do_not_overflow():
  logits = np.array([[1e4, 0.0], [0.0, 0.0], [0.0, 1.0]])
  for name in ('entropy', 'margin', 'least_confidence'):
    np.testing.assert_array_equal(
      policies.make_order(name, logits=logits), [1, 2, 0]
    )


def test_every_policy_declares_what_it_reads():
  known = set(make_gallery(1))
  for policy in policies.POLICIES.values():
    assert set(policies.reads(policy)) <= known
  assert policies.reads(policies.distance) == ('aligned', 'new')
  comparable = {
    name
    for name, policy in policies.POLICIES.items()
    if not {'labels', 'new'} & set(policies.reads(policy))
  }
  assert set(policies.POLICIES) - comparable == {
    'distance',
    'class_mean',
    'class_mean_cosine',
  }


@pytest.mark.parametrize(
  'name', sorted(set(policies.POLICIES) - {'random', 'sigma'})
)
def test_nan_is_named_with_its_row(name, monkeypatch):
  monkeypatch.setattr(policies, '_BLOCK_BYTES', 8 * 5 * 7)
  gallery = make_gallery()
  read = set(policies.reads(policies.POLICIES[name]))
  for key in read - {'labels', 'train_labels'}:
    row = 2 if key == 'class_weights' else 33
    broken = gallery | {key: gallery[key].copy()}
    broken[key].reshape(len(broken[key]), -1)[row, -1] = np.nan
    with pytest.raises(ValueError, match=f'{key} is not finite in row {row}'):
      policies.make_order(name, **broken)


@pytest.mark.parametrize(
  'name, change, message',
  [
    ('sigmo', {}, "Unknown policy 'sigmo', did you mean 'sigma'"),
    ('sigma', {'log_variance': None}, 'reads log_variance; missing: log_va'),
    ('prototype', {'logits': None, 'class_weights': None}, 'logits, class_w'),
    ('sigma', {'log_variance': np.array([0, np.inf])}, 'finite in row 1'),
    ('distance', {'new': np.zeros((59, 4))}, 'different lengths'),
    ('distance', {'new': np.zeros((60, 3))}, 'different widths'),
    ('class_mean', {'labels': np.zeros(60)}, 'integers, got float64'),
    ('class_mean', {'labels': np.zeros(59, int)}, 'different lengths'),
    ('prototype', {'class_weights': np.zeros((4, 6))}, r'= \(4, 5\)'),
    ('prototype', {'class_weights': np.zeros((3, 5))}, r'= \(4, 5\)'),
    ('margin', {'logits': np.zeros((60, 1))}, 'two classes'),
  ],
)
def test_bad_input_is_named(name, change, message):
  with pytest.raises(ValueError, match=message):
    policies.make_order(name, **make_gallery() | change)
