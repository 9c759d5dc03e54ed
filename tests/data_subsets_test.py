import numpy as np
import pytest

from fastfill_jax.data import subsets


def test_select_takes_the_first_half_of_the_classes():
  labels = np.array([3, 0, 1, 2, 1, 0])
  rows = subsets.select(labels, classes=0.5)
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
  rows = subsets.select(np.arange(num_classes), classes=share)
  np.testing.assert_array_equal(rows, np.arange(count))


def test_select_takes_named_classes():
  rows = subsets.select(np.array([0, 1, 2, 0]), classes=(2, 0))
  np.testing.assert_array_equal(rows, [0, 2, 3])


def test_select_cuts_classes_and_leaves_the_others():
  labels = np.repeat(np.arange(4), 20)
  one = subsets.select(labels, fraction_of_class={1: 0.1})
  two = subsets.select(labels, fraction_of_class={1: 0.1, 3: 0.01})
  assert np.bincount(labels[one]).tolist() == [20, 2, 20, 20]
  assert np.bincount(labels[two]).tolist() == [20, 2, 20, 1]
  # Cutting class 3 as well changes nothing for class 1.
  np.testing.assert_array_equal(one[one < 60], two[two < 60])


def test_select_draws_by_seed():
  labels = np.zeros(1000, int)
  picks = [
    subsets.select(labels, fraction_of_class={0: 0.5}, seed=seed)
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(picks[0], picks[1])
  assert 200 < len(np.intersect1d(picks[0], picks[2])) < 300


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'classes': (1, 7)}, r'\[7\]; there are 0 to 2'),
    ({'classes': (-1,)}, r'\[-1\]'),
    ({'classes': (0.5,)}, r'\[0.5\]'),
    ({'classes': 3}, r'\(3,\)'),
    ({'classes': ()}, 'classes='),
    ({'classes': 1.5}, 'is 1.5'),
    ({'classes': 0.1}, 'no whole class of 3'),
    ({'fraction_of_class': {9: 0.5}}, r'\[9\]'),
    ({'fraction_of_class': {1: 0}}, 'fraction of class 1 is 0'),
    ({'num_classes': 4, 'classes': (3,)}, 'no example'),
  ],
)
def test_select_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    subsets.select(np.array([0, 1, 2]), **arguments)


def test_select_refuses_an_empty_split():
  with pytest.raises(ValueError, match='empty'):
    subsets.select(np.array([], int))


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


def test_group_of_class():
  labels, groups = np.array([0, 1, 0, 3]), np.array([5, 6, 5, 5])
  group = subsets.group_of_class(labels, groups, 4)
  np.testing.assert_array_equal(group, [5, 6, -1, 5])
  with pytest.raises(ValueError, match=r'\[0\]'):
    subsets.group_of_class(labels, np.array([5, 6, 7, 5]), 4)


def test_read_groups(tmp_path):
  path = tmp_path / 'groups.csv'
  path.write_text('identity,group\nn3,m\nn1,m\nn2,f\nn9,other\n')
  numbers, names = subsets.read_groups(path, ('n1', 'n2', 'n3'))
  assert names == ('f', 'm')
  np.testing.assert_array_equal(numbers, [1, 0, 1])
  with pytest.raises(ValueError, match=r"1 of 2 classes: \['n4'\]"):
    subsets.read_groups(path, ('n1', 'n4'))
  with pytest.raises(ValueError, match="no column 'gender'"):
    subsets.read_groups(path, ('n1',), group='gender')


def test_read_groups_reads_vggface2s_own_list(tmp_path):
  path = tmp_path / 'identity_meta.csv'
  path.write_text(
    'Class_ID, Name, Sample_Num, Flag, Gender\n'
    'n000001, "14th_Dalai_Lama", 424, 0, m\n'
    'n000002, "A_Fine_Frenzy", 315, 1, f\n'
  )
  numbers, names = subsets.read_groups(
    path, ('n000001', 'n000002'), identity='Class_ID', group='Gender'
  )
  assert names == ('f', 'm')
  np.testing.assert_array_equal(numbers, [1, 0])
