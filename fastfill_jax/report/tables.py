"""The ablation table: as Markdown, as LaTeX, and in the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import rich.box
import rich.table
import rich.text
from scipy import special

from fastfill_jax.report import groups, result, summary

Published = Mapping[str, Mapping[str, float | str]]

NONE = '–'
# Column of `summary.summarise`, its heading, and whether more (+1) or less (-1)
# is better.
COLUMNS = {
  'mAP': ('mAP', 1),
  'cmc@1': ('CMC@1', 1),
  'cmc@5': ('CMC@5', 1),
  'mAP_trapezoid': ('mAP, trapezoid', 1),
  'mAP_start': ('mAP at β = 0', 1),
  'mAP_worst': ('mAP at worst β', 1),
  'mAP_peak': ('mAP at best β', 1),
  'peak_at': ('best β', 0),
  'enough': ('β to 99% mAP', -1),
  'gain_correlation': ('rank correlation with the gain', 0),
  'negative_flips': ('negative flips', -1),
  'gain': ('over random', 0),
  'wins': ('wins', 0),
  'n': ('n', 0),
}
# What fits a page's width and a terminal's.
PAPER = ('mAP', 'cmc@1', 'cmc@5', 'mAP_start', 'enough', 'negative_flips')
TERMINAL = ('mAP', 'cmc@1', 'cmc@5', 'gain', 'wins')

_LATEX = str.maketrans(
  {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    **{c: f'\\{c}' for c in '&%$#_{}'},
    '±': r'$\pm$',
    'β': r'$\beta$',
    '†': r'$^\dagger$',
    '‡': r'$^\ddagger$',
    '§': r'$^\S$',
    '–': '--',
  }
)


@dataclasses.dataclass(frozen=True)
class Table:
  """Text in rows and columns."""

  header: tuple[str, ...]
  left: int  # So many of the first columns hold words, not numbers.
  rows: list[tuple[str, ...]]
  bold: frozenset[tuple[int, int]] = frozenset()  # Rows and columns.
  starts: frozenset[int] = frozenset()  # Rows which begin a new alignment.


def ablation(
  results: Sequence[result.Result],
  published: Published | None = None,
  columns: Sequence[str] = tuple(COLUMNS),
  decimals: int = 2,
) -> Table:
  """Reference rows, then a row per alignment and policy; all numbers in %.

  Bold is the best of the comparable policies, as printed. `published` is as
  for `report.write`, a column beside ours; `columns` are keys of `COLUMNS`.
  """
  frame = summary.summarise(results)
  references = summary.references(results)
  reads = summary.reads(results)
  rows, starts = _rows(references, frame, reads, columns, decimals)
  header = ['alignment', 'policy', *(COLUMNS[key][0] for key in columns)]
  if published:
    header.append('published mAP / CMC@1 / CMC@5')
    names = [*references.index, *(frame.alignment + ', ' + frame.policy)]
    rows = [
      (*row, printed(published.get(name, {})))
      for row, name in zip(rows, names, strict=True)
    ]
  bold = {
    (len(references) + i, 2 + j)
    for j, key in enumerate(columns)
    for i in _best(frame, key, decimals)
  }
  return Table(tuple(header), 2, rows, frozenset(bold), starts)


def budget_table(results: Sequence[result.Result], alignment: str) -> Table:
  """A row per policy: mAP in % by the share of the gallery backfilled."""
  frame = summary.budgets(results, alignment)
  shares = [f'{share:.0%}' for share in summary.BUDGETS]
  reads = summary.reads(results)
  rows = [
    (policy + result.marks(reads[policy]), *_cells(row, shares))
    for policy, row in frame.iterrows()
  ]
  return Table(('policy', *shares), 1, rows)


def group_table(
  results: Sequence[result.Result], names: tuple[str, str]
) -> Table:
  """The gap between two subgroups, of `groups.pair`, per row, in points."""
  columns = ('least', 'most', 'start', 'area', 'closed', 'n')
  header = ('alignment', 'policy', *(f'{name} mAP' for name in names))
  header += ('gap at β = 0', 'gap', 'β to close 90%', 'n')
  rows, starts = _rows(
    groups.references(results, names),
    groups.summarise(results, names),
    summary.reads(results),
    columns,
  )
  return Table(header, 2, rows, starts=starts)


def sequence_table(frames: Sequence[pd.DataFrame]) -> Table:
  """A row per policy: the second backfill's mAP area, by the switch."""
  rows = pd.concat(frames)
  rows = rows.assign(switch=rows['switch'].map(_share))
  table = summary.mean_and_std(rows.drop(columns='seed'), ['policy', 'switch'])
  switches = list(dict.fromkeys(rows['switch']))
  cells = []
  for policy in dict.fromkeys(rows['policy']):
    of_policy = [table.loc[(policy, switch)] for switch in switches]
    areas = (
      f'{_cell(row, "mAP")} ({100 * row["mAP_start"]:.2f})' for row in of_policy
    )
    cells.append((policy, *areas))
  return Table(('policy', *switches), 1, cells)


def _share(switch: float | str) -> str:
  """0.5 as 50%; what is no number as it is."""
  try:
    return f'{float(switch):.0%}'
  except ValueError:
    return switch


def markdown(table: Table) -> str:
  """The table as GitHub's Markdown."""
  rule = ['---' if j < table.left else '---:' for j in range(len(table.header))]
  lines = [table.header, rule]
  for i, row in enumerate(table.rows):
    cells = [cell.replace('|', '\\|') for cell in row]
    lines.append(_emphasised(table, i, cells, '**{}**'))
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def latex(table: Table) -> str:
  """The table as a booktabs tabular, for a paper to read in."""
  columns = 'l' * table.left + 'r' * (len(table.header) - table.left)
  lines = [
    '% \\usepackage{booktabs}',
    f'\\begin{{tabular}}{{@{{}}{columns}@{{}}}}',
    '\\toprule',
    ' & '.join(cell.translate(_LATEX) for cell in table.header) + r' \\',
    '\\midrule',
  ]
  first = min(table.starts, default=0)
  for i, row in enumerate(table.rows):
    if i in table.starts and i > 0:
      lines.append('\\midrule' if i == first else '\\addlinespace')
    cells = [cell.translate(_LATEX) for cell in row]
    cells = _emphasised(table, i, cells, r'\textbf{{{}}}')
    lines.append(' & '.join(cells) + r' \\')
  return '\n'.join([*lines, '\\bottomrule', '\\end{tabular}', ''])


def _emphasised(table, row, cells, form):
  """A row's cells, the bold ones in a form such as '**{}**'."""
  return [
    form.format(cell) if (row, j) in table.bold else cell
    for j, cell in enumerate(cells)
  ]


def terminal(table: Table, title: str) -> rich.table.Table:
  """The table for `rich.print`: an alignment's name stands above its rows."""
  drawn = rich.table.Table(
    title=title, box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
  )
  drawn.add_column('alignment', no_wrap=True)
  for heading in table.header[2:]:
    drawn.add_column(heading, justify='right', no_wrap=True)
  first = min(table.starts, default=0)
  for i, (alignment, policy, *cells) in enumerate(table.rows):
    if i in table.starts:
      drawn.add_section()
      drawn.add_row(rich.text.Text(alignment, 'bold'))
    name = alignment if i < first else f'  {policy}'
    numbers = [
      rich.text.Text(cell.replace(' ± ', '±'), 'bold' * ((i, j) in table.bold))
      for j, cell in enumerate(cells, start=2)
    ]
    drawn.add_row(rich.text.Text(name), *numbers)
  return drawn


def check_published(published: Published) -> None:
  """Raises a ValueError if a row has another key than a metric or 'source'."""
  for name, scores in published.items():
    if unknown := set(scores) - {*result.METRICS, 'source'}:
      raise ValueError(
        f'published[{name!r}] has {sorted(unknown)}; expected '
        f"{result.METRICS} and 'source'."
      )


def printed(scores: Mapping[str, float | str]) -> str:
  """Published scores in one cell."""
  if not any(metric in scores for metric in result.METRICS):
    return NONE
  return ' / '.join(str(scores.get(metric, NONE)) for metric in result.METRICS)


def _rows(references, frame, reads, columns, decimals=2):
  """Rows of pairs, then of alignments and policies; where the latter begin."""
  rows = [
    (pair, NONE, *_cells(row, columns, decimals))
    for pair, row in references.iterrows()
  ]
  rows += [
    (
      row['alignment'],
      row['policy'] + result.marks(reads[row['policy']]),
      *_cells(row, columns, decimals),
    )
    for _, row in frame.iterrows()
  ]
  firsts = frame.drop_duplicates('alignment').index
  return rows, frozenset(len(references) + int(i) for i in firsts)


def _cells(row: pd.Series, keys: Sequence[str], decimals=2) -> list[str]:
  return [_cell(row, key, decimals) for key in keys]


def _cell(row: pd.Series, key: str, decimals: int = 2) -> str:
  """Mean ± deviation over seeds, or ± error over queries with one seed."""
  n = int(row['n'])
  if key == 'n':
    return str(n)
  random = row.get('policy') == summary.RANDOM
  if np.isnan(row.get(key, np.nan)) or (random and key in ('gain', 'wins')):
    return NONE
  if key == 'wins':
    return f'{row["wins"]:.0f}/{n}'
  sign = '+' if key == 'gain' else ''
  text = f'{100 * row[key]:{sign}.{decimals}f}'
  spread = row.get(f'{key}_std' if n > 1 else f'{key}_se', np.nan)
  if np.isnan(spread):
    return text
  text = f'{text} ± {100 * spread:.{decimals}f}'
  if key == 'gain':
    # 95% intervals over queries and, Student's, over seeds.
    half = special.ndtri(0.975) * np.nan_to_num(row['gain_se'])
    if n > 1:
      over_seeds = special.stdtrit(n - 1, 0.975) * spread / np.sqrt(n)
      half = np.hypot(half, over_seeds)
    text += '' if abs(row[key]) > half else ' n.s.'
  return text


def _best(frame: pd.DataFrame, key: str, decimals: int) -> list[int]:
  """Rows of comparable policies that share the best number, as printed."""
  sign = COLUMNS[key][1]
  if not sign:
    return []
  values = (sign * 100 * frame[key][frame.comparable]).round(decimals).dropna()
  return list(values.index[values == values.max()])
