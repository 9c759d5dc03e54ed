"""Results as pandas frames: one row per curve point, seed or table row.

Here and in the modules that draw and print, `results` are those of all seeds
and alignments.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fastfill_jax.report import result

RANDOM, SIGMA = 'random', 'sigma'
KEYS = ['alignment', 'policy']
# Share of new/new mAP at which an update counts as good as done.
ENOUGH = 0.99
# Shares of a backfill that someone may be able to pay for.
BUDGETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def points(
  one: result.Result, scores: Mapping[str, np.ndarray]
) -> pd.DataFrame:
  """One result's scores of all queries or a subgroup, as in `curves`."""
  policies, cutoffs = len(one.policies), len(one.fractions)
  return pd.DataFrame(
    {
      'seed': one.seed,
      'alignment': one.alignment,
      'policy': np.repeat(np.array(one.policies, object), cutoffs),
      'fraction': np.tile(one.fractions, policies),
      **{metric: np.ravel(scores[metric]) for metric in result.METRICS},
    }
  )


def curves(results: Sequence[result.Result]) -> pd.DataFrame:
  """A row per point of every curve.

  Columns are seed, alignment, policy, fraction and the metrics in [0, 1].
  """
  return pd.concat(
    [points(one, one.curves) for one in results], ignore_index=True
  )


def per_seed(results: Sequence[result.Result]) -> pd.DataFrame:
  """Each curve of each seed in a few numbers.

  The area is the plain mean over the cutoffs, as FastFill (arXiv 2303.04766)
  reports it; the trapezoid rule's integral stands beside it. Columns ending in
  `_se` hold standard errors over queries.

  Returns:
    A row per seed, alignment and policy, with a column per metric for its
    area, and with `_trapezoid`, `_start` (nothing backfilled) and `_worst`
    (the lowest point) after it; `enough`, the first fraction of `ENOUGH` of
    new/new mAP (NaN if there is none); `mAP_peak`, the highest point, and
    `peak_at`, its fraction; `gain_correlation` and `gain_se`, as in
    `Result`; `negative_flips`, its area; `sag`, the mAP area less the mean of
    the curve's two ends.
  """
  rows = []
  for one in results:
    x = np.asarray(one.fractions)
    for i, policy in enumerate(one.policies):
      row = {'seed': one.seed, 'alignment': one.alignment, 'policy': policy}
      for metric in result.METRICS:
        y, se = one.curves[metric][i], one.standard_error[metric][i]
        worst = np.argmin(y)
        row |= {
          metric: np.mean(y),
          f'{metric}_se': one.area_standard_error[metric][i],
          f'{metric}_trapezoid': np.trapezoid(y, x),
          f'{metric}_start': y[0],
          f'{metric}_start_se': se[0],
          f'{metric}_worst': y[worst],
          f'{metric}_worst_se': se[worst],
        }
      y = one.curves['mAP'][i]
      goal = ENOUGH * one.references['new/new']['mAP']
      row['enough'] = x[y >= goal].min(initial=np.inf)
      row |= {'mAP_peak': y.max(), 'peak_at': x[np.argmax(y)]}
      row['gain_correlation'] = one.gain_correlation.get(policy, np.nan)
      row['gain_se'] = one.gain_standard_error.get(policy, np.nan)
      row['negative_flips'] = np.mean(one.negative_flips[i])
      row['sag'] = np.mean(y) - (y[0] + y[-1]) / 2
      rows.append(row)
  return pd.DataFrame(rows).replace(np.inf, np.nan)


def summarise(results: Sequence[result.Result]) -> pd.DataFrame:
  """`per_seed` over seeds, with what a policy reads and its gain over random.

  Returns:
    A row per alignment and policy, in the order given: `mean_and_std` of the
    columns of `per_seed` and of `gain`, the mAP area less random's, seed by
    seed. `_se` columns are kept where there is one seed and NaN elsewhere.
    `wins` counts the seeds with a gain (NaN where there is no random order),
    `reads` lists inputs, `comparable` tells whether the policy may be the best.
  """
  rows = per_seed(results)
  base = rows[rows.policy == RANDOM].set_index(['alignment', 'seed'])['mAP']
  index = pd.MultiIndex.from_frame(rows[['alignment', 'seed']])
  rows['gain'] = rows['mAP'] - base.reindex(index).to_numpy()
  errors = [name for name in rows if name.endswith('_se')]
  table = mean_and_std(rows.drop(columns=['seed', *errors]), KEYS)
  groups = rows.groupby(KEYS, sort=False)
  table = table.join(groups[errors.pop(errors.index('gain_se'))].mean())
  table = table.join(groups[errors].first().where(table['n'] == 1))
  wins = groups['gain'].agg(lambda x: (x > 0).sum())
  table['wins'] = wins.where(table['gain'].notna())
  table = table.reset_index()
  table['reads'] = table['policy'].map(reads(results))
  table['comparable'] = [not result.marks(read) for read in table['reads']]
  return table


def reads(results: Sequence[result.Result]) -> dict[str, tuple[str, ...]]:
  """What each policy reads."""
  return {name: one.reads[name] for one in results for name in one.policies}


def budgets(results: Sequence[result.Result], alignment: str) -> pd.DataFrame:
  """What a share of `BUDGETS` buys: mAP by policy (rows) and share (columns).

  Of one alignment, linear between the curve's points, as `mean_and_std`.
  """
  rows = []
  for one in results:
    if one.alignment == alignment:
      for policy, y in zip(one.policies, one.curves['mAP'], strict=True):
        values = np.interp(BUDGETS, one.fractions, y)
        shares = (f'{share:.0%}' for share in BUDGETS)
        row = dict(zip(shares, values, strict=True))
        rows.append({'policy': policy} | row)
  return mean_and_std(pd.DataFrame(rows), ['policy'])


def references(results: Sequence[result.Result]) -> pd.DataFrame:
  """The scores without alignment: old/old, new/old and new/new.

  A row per pair of encoders, by their names, as `mean_and_std`.
  """
  scores = {}
  for one in results:
    for pair in ('old/old', 'new/old', 'new/new'):
      if pair in one.references:
        key = one.seed, named(pair, one.update)
        scores[key] = one.references[pair]
  rows = [{'pair': pair, **score} for (_, pair), score in scores.items()]
  return mean_and_std(pd.DataFrame(rows), ['pair'])


def named(pair: str, update: tuple[str, str]) -> str:
  """A pair such as 'new/old' (query / gallery) by the encoders' names."""
  names = dict(zip(('old', 'new'), update, strict=True))
  return '/'.join(names[role] for role in pair.split('/'))


def levels(results: Sequence[result.Result], alignment: str) -> pd.Series:
  """The mAP that an alignment starts from and goes to: old/old, new/new."""
  update = next(x.update for x in results if x.alignment == alignment)
  pairs = [named(pair, update) for pair in ('old/old', 'new/new')]
  return references(results)['mAP'][pairs]


def mean_and_std(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
  """Means over seeds, sample deviations as `_std` (NaN of one seed), and `n`.

  Args:
    rows: A row per seed and combination of keys, else numbers only.
    keys: What identifies a row but for its seed.

  Returns:
    A row per combination of keys, which are its index, as first met.
  """
  groups = rows.groupby(list(keys), sort=False)
  # A mean without the seeds that lack a number would be of other seeds.
  table = groups.agg(lambda x: x.mean(skipna=False))
  spread = groups.agg(lambda x: x.std(ddof=1, skipna=False))
  table = table.join(spread.add_suffix('_std'))
  table['n'] = groups.size()
  return table


def best_policies(table: pd.DataFrame) -> pd.DataFrame:
  """Each alignment's best comparable row of `summarise`, the best one first."""
  fair = table[table.comparable].sort_values(
    'mAP', ascending=False, kind='stable'
  )
  return fair.drop_duplicates('alignment')


def rank_correlation(one: result.Result) -> float:
  """Spearman's, of uncertainty and true error; NaN where either is constant."""
  pair = pd.DataFrame({'uncertainty': one.uncertainty, 'error': one.error})
  return float(pair.corr('spearman').iloc[0, 1])
