import numpy as np
import pandas as pd
import pytest
import report_cases
import scipy.stats

from fastfill_jax.report import document, groups, plots, summary, tables

# One seed's numbers.


def test_numbers_of_one_curve():
  one = report_cases.make(
    {'random': [0.2, 0.6, 0.8], 'sigma': [0.2, 0.1, 0.8]},
    negative_flips=np.array([[0.3, 0.2, 0.1], [0.0, 0.0, 0.0]]),
    standard_error=report_cases.scores(
      np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    ),
    area_standard_error=report_cases.scores(np.array([0.15, 0.25])),
  )
  random, sigma = summary.per_seed([one]).to_dict('records')
  assert random['mAP'] == pytest.approx((0.2 + 0.6 + 0.8) / 3)
  assert random['mAP_trapezoid'] == pytest.approx(
    0.5 * (0.2 + 0.6) / 2 + 0.5 * (0.6 + 0.8) / 2
  )
  assert random['mAP_start'] == 0.2
  assert random['cmc@1_worst'] == 0.2
  # The exact one: a query's points vary together.
  assert (random['mAP_se'], sigma['mAP_se']) == (0.15, 0.25)
  assert random['negative_flips'] == pytest.approx((0.3 + 0.2 + 0.1) / 3)
  assert random['sag'] == pytest.approx((0.2 + 0.6 + 0.8) / 3 - (0.2 + 0.8) / 2)
  assert sigma['mAP_worst'] == 0.1
  assert sigma['mAP_worst_se'] == 0.2


@pytest.mark.parametrize(
  ('curve', 'fraction'),
  [
    ([0.2, 0.6, 0.8], 1.0),
    ([0.2, 0.99 * 0.8, 0.8], 0.5),
    ([0.2, 0.98 * 0.8, 0.8], 1.0),
    ([0.85, 0.5, 0.8], 0.0),
  ],
)
def test_fraction_that_is_enough(curve, fraction):
  row = summary.per_seed([report_cases.make({'random': curve})]).iloc[0]
  assert row['enough'] == fraction


def test_a_fraction_never_reached_is_left_open():
  references = {
    'old/old': report_cases.scores(0.1),
    'new/new': report_cases.scores(0.9),
  }
  results = [report_cases.make({'random': [0.2, 0.8]}, references=references)]
  assert np.isnan(summary.per_seed(results)['enough'].iloc[0])
  row = tables.ablation(results, columns=('enough',)).rows[-1]
  assert row == ('fastfill', 'random', tables.NONE)


def test_what_a_share_of_the_backfill_buys():
  # Points at 0, 1/2 and 1.
  results = [
    report_cases.make(
      {'random': [0.2, 0.4, 0.8], 'class_mean': [0.2, 0.6, 0.8]}
    ),
    report_cases.make({'random': [0.4, 0.4, 0.8]}, seed=1),
    report_cases.make({'random': [0.0, 0.0, 0.8]}, alignment='fct'),
  ]
  frame = summary.budgets(results, 'fastfill')
  random = frame.loc['random']
  assert random['0%'] == pytest.approx((0.2 + 0.4) / 2)
  assert random['10%'] == pytest.approx((0.2 + 0.2 * 0.2 + 0.4) / 2)
  assert random['70%'] == pytest.approx(0.4 + 0.4 * 0.4)
  assert random['0%_std'] == pytest.approx(np.std([0.2, 0.4], ddof=1))
  assert list(frame['n']) == [2, 1]
  table = tables.budget_table(results, 'fastfill')
  assert table.header == (
    'policy',
    *(f'{x}%' for x in (0, 5, 10, 20, 30, 50, 70)),
  )
  assert [row[:2] for row in table.rows] == [
    ('random', '30.00 ± 14.14'),
    ('class_mean‡', '20.00'),
  ]


@pytest.mark.parametrize('seed', range(3))
def test_rank_correlation_is_scipys_under_ties(seed):
  rng = np.random.default_rng(seed)
  uncertainty, error = rng.integers(0, 6, (2, 40)).astype(np.float32)
  one = report_cases.make(
    {'random': [0, 1]}, uncertainty=uncertainty, error=error
  )
  expected = scipy.stats.spearmanr(uncertainty, error).statistic
  assert summary.rank_correlation(one) == pytest.approx(expected)


def test_rank_correlation_of_a_constant_is_nan():
  one = report_cases.make({'random': [0, 1]}, uncertainty=np.ones(3))
  assert np.isnan(summary.rank_correlation(one))


# Over seeds.


def test_mean_and_deviation_over_seeds():
  results = [
    report_cases.make({'random': [0.0, x]}, seed)
    for seed, x in enumerate([4, 6])
  ]
  row = summary.summarise(results).iloc[0]
  assert row['n'] == 2
  assert row['mAP'] == pytest.approx((2 + 3) / 2)
  assert row['mAP_std'] == pytest.approx(np.std([2, 3], ddof=1))
  assert np.isnan(row['mAP_se'])


def test_every_row_has_its_own_number_of_seeds():
  results = [
    report_cases.make({'random': [0.5, 0.7]}, 0, 'fct'),
    report_cases.make({'random': [0.5, 0.7]}, 1, 'fct'),
    report_cases.make({'random': [0.5, 0.7]}, 0, 'identity'),
  ]
  rows = tables.ablation(results, columns=('mAP', 'n')).rows
  assert rows[-2:] == [
    ('fct', 'random', '60.00 ± 0.00', '2'),
    ('identity', 'random', '60.00 ± 1.00', '1'),
  ]
  assert 'up to 2 seeds' in document.spread(results)


def test_references_count_each_seed_once():
  results = [
    report_cases.make({'random': [0.5, 0.6]}, 0, alignment)
    for alignment in ('identity', 'ridge', 'fct')
  ]
  results.append(report_cases.make({'random': [0.5, 0.8]}, 1, 'fct'))
  row = summary.references(results).loc['new/new']
  assert row['mAP'] == pytest.approx((0.6 + 0.8) / 2)
  assert row['n'] == 2


def test_gain_is_paired_by_seed():
  # Seeds far apart, with the same gain.
  results = [
    report_cases.make({'random': [0.2, x], 'sigma': [0.3, x]}, seed)
    for seed, x in enumerate([0.4, 0.9, 0.6])
  ]
  row = summary.summarise(results).set_index('policy').loc['sigma']
  assert row['gain'] == pytest.approx(0.1 / 2)
  assert row['gain_std'] == pytest.approx(0, abs=1e-12)
  assert row['wins'] == 3
  assert row['mAP_std'] > 0.1


@pytest.mark.parametrize(
  ('gains', 'error', 'said'),
  [
    ([0.02], 0.009, '+1.00 ± 0.90 n.s.'),
    ([0.02], 0.005, '+1.00 ± 0.50'),
    ([0.02, 0.02, 0.02], 0.009, '+1.00 ± 0.00 n.s.'),  # The queries alone
    ([0.00, 0.02, 0.04], 0.0, '+1.00 ± 1.00 n.s.'),  # The seeds alone
    ([0.018, 0.02, 0.022], 0.001, '+1.00 ± 0.10'),
  ],
)
def test_a_gain_within_its_interval_is_said_to_be_so(gains, error, said):
  results = [
    report_cases.make(
      {'random': [0.5, 0.8], 'sigma': [0.5 + gain, 0.8]},
      seed,
      gain_standard_error={'random': 0.0, 'sigma': error},
    )
    for seed, gain in enumerate(gains)
  ]
  row = summary.summarise(results).set_index('policy').loc['sigma']
  assert tables._cell(row, 'gain') == said


def test_without_random_there_is_no_gain():
  cells = tables.ablation(
    [report_cases.make({'sigma': [0.2, 0.8]})], columns=('gain', 'wins')
  ).rows[-1]
  assert cells[2:] == (tables.NONE, tables.NONE)


@pytest.mark.parametrize(
  ('gains', 'claim'),
  [
    ([0.1, 0.2], 'beats random in every seed: +7.50 ± 3.54 points'),
    ([0.2, -0.1], 'beats random on average, but not in every seed'),
    ([-0.2, 0.1], 'does not beat random: -2.50 ± 10.61 points'),
    ([0.0, 0.0], 'does not beat random'),
    ([0.1], 'one seed says little'),
  ],
)
def test_sigma_against_random_in_words(gains, claim):
  results = [
    report_cases.make({'random': [0.5, 0.8], 'sigma': [0.5 + gain, 0.8]}, seed)
    for seed, gain in enumerate(gains)
  ]
  table = summary.summarise(results)
  sigma = next(row for row in table.itertuples() if row.policy == 'sigma')
  assert claim in document.verdict(sigma)
  won = sum(gain > 0 for gain in gains)
  assert f'{won}/{len(gains)} seeds' in document.verdict(sigma)


def test_the_order_of_results_changes_no_number():
  results = report_cases.many(3)
  there = summary.summarise(results)
  back = summary.summarise(results[::-1])
  keys = ['alignment', 'policy']
  there, back = (
    frame.sort_values(keys, ignore_index=True) for frame in (there, back)
  )
  pd.testing.assert_frame_equal(there, back)


# Who is best.


def test_oracles_and_readers_of_labels_are_never_bold():
  results = [
    report_cases.make(
      {
        'random': [0.2, 0.8],
        'sigma': [0.4, 0.8],
        'class_mean': [0.5, 0.8],
        'distance': [0.6, 0.8],
      }
    )
  ]
  table = tables.ablation(results, columns=('mAP',))
  policies = {table.rows[i][1] for i, _ in table.bold}
  assert policies == {'sigma'}
  assert [row[1] for row in table.rows[-2:]] == ['class_mean‡', 'distance†']


def test_ties_as_printed_are_both_bold_and_less_is_better_for_flips():
  flips = np.array([[0.3, 0.1], [0.2, 0.1]])
  results = [
    report_cases.make(
      {'random': [0.3, 0.8], 'sigma': [0.3 + 1e-9, 0.8]}, negative_flips=flips
    )
  ]
  table = tables.ablation(results, columns=('mAP', 'negative_flips'))
  best = {(table.rows[i][1], table.header[j]) for i, j in table.bold}
  assert best == {
    ('random', 'mAP'),
    ('sigma', 'mAP'),
    ('sigma', 'negative flips'),
  }


def test_best_alignment_first():
  results = [
    report_cases.make({'random': [0.2, 0.8]}, 0, 'fct'),
    report_cases.make({'random': [0.1, 0.8], 'sigma': [0.15, 0.8]}, 0, 'l2'),
    report_cases.make(
      {'random': [0.1, 0.8], 'sigma': [0.18, 0.8]}, 0, 'fastfill'
    ),
  ]
  table = summary.summarise(results)
  assert list(summary.best_policies(table).alignment) == [
    'fct',
    'fastfill',
    'l2',
  ]


def test_oracles_alone_are_a_report_too():
  results = [report_cases.make({'distance': [0.2, 0.8]})]
  assert plots.alignments(results) is None
  assert not tables.ablation(results).bold


# Subgroups.


def grouped(curves, pairs):
  """Two policies' mAP per group, and each group's old/old and new/new."""
  shape = np.shape(next(iter(curves.values())))
  plain = {'random': [0.5] * shape[1], 'sigma': [0.5] * shape[1]}
  return report_cases.make(
    plain,
    groups={
      name: report_cases.scores(np.array(y)) for name, y in curves.items()
    },
    group_references={
      name: {
        'old/old': report_cases.scores(old),
        'new/new': report_cases.scores(new),
      }
      for name, (old, new) in pairs.items()
    },
  )


def test_gap_of_subgroups_by_hand():
  curves = {
    'rare': [[0.1, 0.7, 0.5], [0.1, 0.49, 0.5]],
    'often': [[0.5, 0.5, 0.6], [0.5, 0.6, 0.6]],
  }
  results = [grouped(curves, {'rare': (0.1, 0.5), 'often': (0.4, 0.6)})]
  names = groups.pair(results)
  assert names == ('often', 'rare')
  random, sigma = groups.summarise(results, names).to_dict('records')
  assert random['start'] == pytest.approx(0.5 - 0.1)
  assert random['area'] == pytest.approx((0.4 - 0.2 + 0.1) / 3)
  # A gap turned round is not closed.
  assert random['closed'] == 1.0
  # Closed: within a tenth of 0.4 - 0.1 of the last gap.
  assert sigma['closed'] == 0.5
  references = groups.references(results, names)
  assert references.loc['old/old', 'area'] == pytest.approx(0.4 - 0.1)
  assert references.loc['new/new', 'area'] == pytest.approx(0.6 - 0.5)


def test_the_worse_served_subgroup_need_not_score_lower():
  # 'rare' is easy: it scores higher, yet gains most by the update.
  curves = {'rare': [[0.5, 0.9]] * 2, 'often': [[0.5, 0.6]] * 2}
  results = [grouped(curves, {'rare': (0.5, 0.9), 'often': (0.5, 0.6)})]
  assert groups.pair(results) == ('often', 'rare')
  gap = groups.gap(results[0], groups.pair(results))
  np.testing.assert_allclose(gap, [[0.0, -0.3]] * 2, atol=1e-12)


def test_one_subgroup_has_no_gap():
  one = grouped({'rare': [[0.5, 0.9]] * 2}, {'rare': (0.5, 0.9)})
  assert groups.pair([one]) is None
  assert plots.subgroups([one], 'fastfill') is None
