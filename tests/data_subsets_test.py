import numpy as np
import pytest

from fastfill_jax.data import subsets


def test_select_takes_the_first_half_of_the_classes():
  labels = np.array([3, 0, 1, 2, 1, 0])
  rows = subsets.select(labels, num_classes=4, classes=0.5)
  np.testing.assert_array_equal(rows, [1, 2, 4, 5])


@pytest.mark.parametrize(
  ('share', 'num_classes', 'count'),
  # The paper's splits, and a product that floating point leaves below 29.
  [
    (0.5, 100, 50),
    (0.5, 1000, 500),
    (0.5, 365, 182),
    (0.1, 8631, 863),
    (0.29, 100, 29),
    (1.0, 7, 7),
  ],
)
def test_share_of_classes_rounds_down(share, num_classes, count):
  labels = np.arange(num_classes)
  rows = subsets.select(labels, num_classes=num_classes, classes=share)
  np.testing.assert_array_equal(rows, np.arange(count))


def test_select_takes_named_classes():
  labels = np.array([0, 1, 2, 0])
  rows = subsets.select(labels, num_classes=3, classes=(2, 0))
  np.testing.assert_array_equal(rows, [0, 2, 3])


def test_select_cuts_classes_and_leaves_the_others():
  labels = np.repeat(np.arange(4), 20)
  one, two, few = (
    subsets.select(labels, num_classes=4, classes=1.0, cut=cut, kept=kept)
    for cut, kept in (((1,), 0.1), ((1, 3), 0.1), ((3,), 0.01))
  )
  assert np.bincount(labels[one]).tolist() == [20, 2, 20, 20]
  assert np.bincount(labels[two]).tolist() == [20, 2, 20, 2]
  assert np.bincount(labels[few]).tolist() == [20, 20, 20, 1]
  # Cutting class 3 as well changes nothing for class 1.
  np.testing.assert_array_equal(one[one < 60], two[two < 60])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'classes': (1, 7)}, r'\[7\]; there are 0 to 2'),
    ({'classes': (-1,)}, r'\[-1\]'),
    ({'classes': (0.5,)}, r'\[0.5\]'),
    ({'classes': 1.5}, 'classes=1.5: give a share'),
    ({'classes': 0.1}, 'of 3 classes at least one'),
    ({'num_classes': 4, 'classes': (3,)}, 'no example'),
  ],
)
def test_select_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    subsets.select(np.array([0, 1, 2]), **({'num_classes': 3} | arguments))


@pytest.mark.parametrize('fraction', [0.01, 0.1, 1 / 3, 0.9])
def test_validation_is_stratified_and_a_partition(fraction):
  sizes = np.array([1, 3, 50, 1000, 17])
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
  train, aside = subsets.split_validation(labels, fraction, seed=3)
  together = np.sort(np.concatenate([train, aside]))
  np.testing.assert_array_equal(together, np.arange(len(labels)))
  assert len(aside) == round(fraction * len(labels))
  per_class = np.bincount(labels[aside], minlength=5)
  assert np.all(np.abs(per_class - fraction * sizes) <= 1 + 1e-9)


def test_validation_depends_on_the_seed_alone():
  labels = np.arange(300) % 3
  first, again, other = (
    subsets.split_validation(labels, 0.2, seed)[1] for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize('fraction', [0, 0.01, 1])
def test_validation_refuses_empty_parts(fraction):
  with pytest.raises(ValueError, match='both parts'):
    subsets.split_validation(np.zeros(10, int), fraction, 0)


def test_read_groups(tmp_path):
  path = tmp_path / 'groups.csv'
  path.write_text('identity, more, group\nn3,"a,b", m\nn1,,m\nn2,1,f\nn9,,x\n')
  groups = subsets.read_groups(path, ('n1', 'n2', 'n3'))
  assert groups.tolist() == ['m', 'f', 'm']
  with pytest.raises(ValueError, match=r"1 of 2 classes: \['n4'\]"):
    subsets.read_groups(path, ('n1', 'n4'))
  path.write_text('identity,gender\nn1,m\n')
  with pytest.raises(ValueError, match="no column 'group'"):
    subsets.read_groups(path, ('n1',))
