"""Subgroups of the queries: whom a biased old encoder serves badly, how long.

The gap is the score of the subgroup the update helps least, less that of the
one it helps most. The old encoder serves the latter worse than the new one
shows to be possible, and backfilling should close the gap early (FastFill,
arXiv 2303.04766, abstract).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fastfill_jax.report import result, summary

# The gap counts as closed when this share of what closes at all has closed.
CLOSED = 0.9


def curves(results: Sequence[result.Result]) -> pd.DataFrame:
  """Every point of every subgroup's curves: `summary.curves` by group."""
  frames = [
    summary.points(one, scores).assign(group=group)
    for one in results
    for group, scores in one.groups.items()
  ]
  columns = ['seed', *summary.KEYS, 'group', 'fraction', *result.METRICS]
  return pd.concat(frames, ignore_index=True)[columns]


def pair(results: Sequence[result.Result]) -> tuple[str, str] | None:
  """The subgroups the update helps least and most, by mAP of all seeds.

  None if no two subgroups are in every result.
  """
  names = [g for g in results[0].groups if all(g in r.groups for r in results)]
  if len(names) < 2:
    return None
  of_seeds = {one.seed: one.group_references for one in results}.values()
  gains = {
    name: np.mean(
      [x[name]['new/new']['mAP'] - x[name]['old/old']['mAP'] for x in of_seeds]
    )
    for name in names
  }
  return min(names, key=gains.get), max(names, key=gains.get)


def gap(one: result.Result, names: tuple[str, str]) -> np.ndarray:
  """The first subgroup's mAP less the second's, [policy, cutoff]."""
  first, second = (np.asarray(one.groups[name]['mAP']) for name in names)
  return first - second


def summarise(
  results: Sequence[result.Result], names: tuple[str, str]
) -> pd.DataFrame:
  """Both subgroups' areas and their gap, over seeds; `names` are of `pair`.

  Returns:
    A row per alignment and policy with `summary.mean_and_std` of `least` and
    `most`, the two subgroups' mAP areas; `start` and `area`, the gap before
    backfilling and on average; `closed`, the first fraction at which all but
    a tenth of the difference to the new/new gap is gone.
  """
  rows = []
  for one in results:
    gaps = gap(one, names)
    for i, policy in enumerate(one.policies):
      y = gaps[i] - gaps[i, -1]
      near = np.abs(y) <= (1 - CLOSED) * np.abs(y[0])
      rows.append(
        {
          'alignment': one.alignment,
          'policy': policy,
          'least': np.mean(one.groups[names[0]]['mAP'][i]),
          'most': np.mean(one.groups[names[1]]['mAP'][i]),
          'start': gaps[i, 0],
          'area': np.mean(gaps[i]),
          'closed': np.asarray(one.fractions)[near][0],
        }
      )
  return summary.mean_and_std(pd.DataFrame(rows), summary.KEYS).reset_index()


def references(
  results: Sequence[result.Result], names: tuple[str, str]
) -> pd.DataFrame:
  """Likewise `least`, `most` and `area` of each pair without alignment."""
  rows = []
  for one in {one.seed: one for one in reversed(results)}.values():
    first, second = (one.group_references[name] for name in names)
    for name in ('old/old', 'new/old', 'new/new'):
      if name in first and name in second:
        least, most = first[name]['mAP'], second[name]['mAP']
        rows.append(
          {'pair': name, 'least': least, 'most': most, 'area': least - most}
        )
  return summary.mean_and_std(pd.DataFrame(rows), ['pair'])
