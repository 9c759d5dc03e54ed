"""The text of report.md."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fastfill_jax.report import groups, result, summary, tables

_MEANING = {
  'new': 'reads the new embeddings of the gallery: an oracle',
  'labels': "reads the gallery's labels",
  'gains': 'reads queries, labels and new embeddings: the head-room',
}
_CAPTIONS = {
  'curves': (
    'Backfilling curve of {main}. Below it the difference to random order. '
    'Dashed policies read what the others may not. Bands: {spread}.'
  ),
  'alignments': (
    'Alignments (the seven best at most), each under its best policy that '
    'reads neither labels, nor queries, nor new embeddings.'
  ),
  'uncertainty': (
    'What {main} predicts for each item of the gallery, and its true squared '
    'error.'
  ),
  'training': 'Training loss.',
  'groups': (
    'mAP of two subgroups under {main}, and the gap between them. Dotted: '
    'old/old and new/new.'
  ),
}


def markdown(
  results: Sequence[result.Result],
  title: str,
  published: tables.Published,
  main: str,
  figures: Sequence[str],
  stale: Mapping[str, Sequence[str]],
  sequence: Sequence[pd.DataFrame],
) -> str:
  """The whole report; the arguments are `report.write`'s.

  `figures` are the names of those that there are.
  """
  table = summary.summarise(results)
  parts = [
    f'# {title}',
    '## Ablation',
    tables.markdown(tables.ablation(results, published)),
    _legend(results, table),
    _published(published),
    '## What a share of the backfill buys',
    tables.markdown(tables.budget_table(results, main)),
    f'mAP in % under {main} when that share of the gallery is backfilled, '
    "linear between the curve's points.",
    '## Sigma and random',
    _checks(table),
  ]
  names = groups.pair(results)
  if names:
    parts += [
      '## Subgroups',
      tables.markdown(tables.group_table(results, names)),
      f'Areas of mAP in %. The gap is that of {names[0]} less that of '
      f'{names[1]}, in points, and the first fraction at which all but a tenth '
      'of its difference to new/new is gone. Every point: groups.csv.',
    ]
  if sequence:
    parts += [
      '## A second update',
      tables.markdown(tables.sequence_table(sequence)),
      'Areas of the second backfill in %, by the share of the first one that '
      'was done when it began (in brackets the value at its start).',
    ]
  if stale:
    parts += ['## Results of other code', _stale(stale)]
  parts.append('## Figures')
  for name in figures:
    caption = _CAPTIONS[name].format(main=main, spread=spread(results))
    parts.append(f'![{name}]({name}.png)\n\n{caption}')
  return '\n\n'.join(part.strip() for part in parts if part) + '\n'


def summary_csv(table: pd.DataFrame) -> str:
  """`summary.summarise` as CSV, shares in [0, 1]."""
  first = [*summary.KEYS, 'reads', 'comparable', 'n', *result.METRICS]
  rest = [name for name in table if name not in first]
  table = table.assign(reads=table['reads'].map(' '.join))
  return table[[*first, *rest]].to_csv(index=False)


def spread(results: Sequence[result.Result]) -> str:
  """What stands behind the ±."""
  counts = pd.Series([one.alignment for one in results]).value_counts()
  low, high = counts.min(), counts.max()
  if high == 1:
    return 'one seed: ± standard error over queries'
  if low == high:
    return f'mean ± standard deviation over {high} seeds'
  return (
    f'mean ± standard deviation over up to {high} seeds; with one, ± standard '
    'error over queries'
  )


def _legend(results: Sequence[result.Result], table: pd.DataFrame) -> str:
  """How to read the table."""
  lines = [
    f'All numbers are in %, {spread(results)}. n counts seeds.',
    f'mAP, CMC@1 and CMC@5 are areas under the backfilling curve: plain means '
    f'over its {len(results[0].fractions)} points. β is the share of the '
    'gallery backfilled; "β to 99% mAP" the first one at which mAP reaches 99% '
    'of new/new; the rank correlation is of an order with what each item alone '
    'gains; negative flips are queries right under old/old and wrong '
    "now, averaged over the curve. The gain over random is of mAP's area, "
    'seed by seed, n.s. where its 95% interval over seeds and queries holds 0; '
    'wins count the seeds in which it is positive.',
  ]
  used = {name for reads in table['reads'] for name in reads}
  marks = [
    f' {mark} {_MEANING[name]}.'
    for name, mark in result.MARKS.items()
    if name in used
  ]
  lines.append(
    'Bold is the best of the policies that read neither labels, nor queries, '
    f'nor new embeddings.{"".join(marks)}'
  )
  reads = dict(zip(table['policy'], table['reads'], strict=True))
  lines.append(f'What each policy reads: {_listed(reads)}.')
  left_out = {
    f'{policy} under {one.alignment} (no {", ".join(missing)})': None
    for one in results
    for policy, missing in one.left_out.items()
  }
  if left_out:
    lines.append(f'Not run, for want of what they read: {"; ".join(left_out)}.')
  needs = {one.alignment: one.needs for one in results}
  lines.append(
    f'What each method reads beside pairs of embeddings: {_listed(needs)}.'
  )
  return '\n\n'.join(lines)


def _listed(reads: Mapping[str, Sequence[str]]) -> str:
  return '; '.join(
    f'{name}: {", ".join(read) or "nothing"}' for name, read in reads.items()
  )


def _stale(stale: Mapping[str, Sequence[str]]) -> str:
  lines = [
    f'- {x}: {", ".join(files)} changed since' for x, files in stale.items()
  ]
  return '\n'.join([*lines, '', '`--config.run.anew=True` makes them again.'])


def _published(published: tables.Published) -> str:
  """Published numbers and their sources, those of rows we lack included."""
  if not published:
    return ''
  lines = ['Published numbers in %, as mAP / CMC@1 / CMC@5:\n']
  for name, scores in published.items():
    source = scores.get('source', 'no source given')
    lines.append(f'- {name}: {tables.printed(scores)} ({source})')
  return '\n'.join(lines)


def _checks(table: pd.DataFrame) -> str:
  """Whether sigma beats random, and whether random's curve sags."""
  lines = []
  for row in table[table.policy == summary.SIGMA].itertuples():
    if not np.isnan(row.gain):
      lines.append(f'- {row.alignment}: {verdict(row)}')
  for row in table[table.policy == summary.RANDOM].itertuples():
    how = 'below' if row.sag < 0 else 'above'
    lines.append(
      f"- {row.alignment}: random order's mAP area is "
      f'{_points(abs(row.sag), row.sag_std)} points {how} the mean of its '
      'two ends' + (' (the curve sags).' if row.sag < 0 else '.')
    )
  return '\n'.join(lines)


def verdict(row) -> str:
  """Whether an order, a row of `summary.summarise`, beats random, in words."""
  if row.wins == row.n:
    claim = f'{row.policy} beats random in every seed'
  elif row.gain > 0:
    claim = f'{row.policy} beats random on average, but not in every seed'
  else:
    claim = f'{row.policy} does not beat random'
  text = (
    f'{claim}: {_points(row.gain, row.gain_std, "+")} points of mAP area, '
    f'{row.wins:.0f}/{row.n} seeds won'
  )
  return f'{text}.' if row.n > 1 else f'{text}; one seed says little.'


def _points(mean: float, deviation: float, sign: str = '') -> str:
  text = f'{100 * mean:{sign}.2f}'
  return text if np.isnan(deviation) else f'{text} ± {100 * deviation:.2f}'
