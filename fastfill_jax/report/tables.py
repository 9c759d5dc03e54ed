"""The ablation table: as Markdown, as LaTeX, and in the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import rich.box
import rich.table
import rich.text

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
  'enough': ('β to 99% mAP', -1),
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
  """Text in rows and columns.

  Attributes:
    header: The columns' headings.
    left: How many of the first columns hold words, not numbers.
    rows: Each row's cells.
    bold: Row and column of the cells that are best.
    starts: Rows which begin a new alignment.
  """

  header: tuple[str, ...]
  left: int
  rows: list[tuple[str, ...]]
  bold: frozenset[tuple[int, int]]
  starts: frozenset[int]


def ablation(
  results: Sequence[result.Result],
  published: Published | None = None,
  columns: Sequence[str] = tuple(COLUMNS),
  decimals: int = 2,
) -> Table:
  """Reference rows, then a row per alignment and policy; all numbers in %.

  Args:
    results: All seeds and alignments.
    published: Per row, named 'old/old' or 'alignment, policy', the metrics in
      % as printed, for a column beside ours; None leaves the column out.
    columns: Keys of `COLUMNS` wanted.
    decimals: Digits after the point.

  Returns:
    The table. Bold is the best of the comparable policies, as printed.
  """
  frame = summary.summarise(results)
  references = summary.references(results)
  names = [(pair, NONE, pair) for pair in references.index]
  names += [
    (row.alignment, marked(row.policy, row.reads), row_name(row))
    for row in frame.itertuples()
  ]
  numbers = [row for _, row in references.iterrows()]
  numbers += [row for _, row in frame.iterrows()]
  rows = []
  for (alignment, policy, name), row in zip(names, numbers, strict=True):
    cells = [_cell(row, key, decimals) for key in columns]
    if published:
      cells.append(printed(published.get(name, {})))
    rows.append((alignment, policy, *cells))
  bold = {
    (len(references) + i, 2 + j)
    for j, key in enumerate(columns)
    for i in _best(frame, key, decimals)
  }
  header = ['alignment', 'policy', *(COLUMNS[key][0] for key in columns)]
  if published:
    header.append('published mAP / CMC@1 / CMC@5')
  starts = _starts(frame, len(references))
  return Table(tuple(header), 2, rows, frozenset(bold), starts)


def budget_table(
  results: Sequence[result.Result], alignment: str, decimals: int = 2
) -> Table:
  """A row per policy: mAP in % by the share of the gallery backfilled.

  Args:
    results: All seeds and alignments.
    alignment: Which of them.
    decimals: Digits after the point.

  Returns:
    The table.
  """
  frame = summary.budgets(results, alignment)
  shares = [f'{share:.0%}' for share in summary.BUDGETS]
  reads = {p: one.reads[p] for one in results for p in one.policies}
  rows = [
    (
      marked(policy, reads[policy]),
      *(_cell(row, key, decimals) for key in shares),
    )
    for policy, row in frame.iterrows()
  ]
  return Table(('policy', *shares), 1, rows, frozenset(), frozenset())


def group_table(
  results: Sequence[result.Result], names: tuple[str, str], decimals: int = 2
) -> Table:
  """The gap between two subgroups per alignment and policy, in points.

  Args:
    results: All seeds and alignments.
    names: From `groups.pair`.
    decimals: Digits after the point.

  Returns:
    The table.
  """
  columns = ('least', 'most', 'start', 'area', 'closed', 'n')
  first, second = names
  header = ('alignment', 'policy', f'{first} mAP', f'{second} mAP')
  header += ('gap at β = 0', 'gap', 'β to close 90%', 'n')
  references = groups.references(results, names)
  frame = groups.summarise(results, names)
  reads = {p: one.reads[p] for one in results for p in one.policies}
  rows = [
    (pair, NONE, *(_cell(row, key, decimals) for key in columns))
    for pair, row in references.iterrows()
  ]
  for _, row in frame.iterrows():
    policy = marked(row['policy'], reads[row['policy']])
    cells = (_cell(row, key, decimals) for key in columns)
    rows.append((row['alignment'], policy, *cells))
  starts = _starts(frame, len(references))
  return Table(header, 2, rows, frozenset(), starts)


def sequence_table(frames: Sequence[pd.DataFrame], decimals: int = 2) -> Table:
  """A row per policy: the second backfill's mAP area, by the switch.

  Args:
    frames: Of every seed, the table of the stage 'sequence'.
    decimals: Digits after the point.

  Returns:
    The table.
  """
  rows = pd.concat(frames)
  rows = rows.assign(switch=rows['switch'].map(_share))
  keys = ['policy', 'switch']
  table = summary.mean_and_std(rows.drop(columns='seed'), keys)
  switches = list(dict.fromkeys(rows['switch']))
  cells = [
    (
      policy,
      *(
        f'{_cell(table.loc[(policy, switch)], "mAP", decimals)} '
        f'({100 * table.loc[(policy, switch)]["mAP_start"]:.{decimals}f})'
        for switch in switches
      ),
    )
    for policy in dict.fromkeys(rows['policy'])
  ]
  return Table(('policy', *switches), 1, cells, frozenset(), frozenset())


def _share(switch: float | str) -> str:
  """0.5 as 50%; what is no number as it is."""
  try:
    return f'{float(switch):.0%}'
  except ValueError:
    return switch


def markdown(table: Table) -> str:
  """The table as GitHub's Markdown."""
  lines = [table.header]
  lines.append(
    tuple('---' if j < table.left else '---:' for j in range(len(table.header)))
  )
  for i, row in enumerate(table.rows):
    cells = (cell.replace('|', '\\|') for cell in row)
    lines.append(
      tuple(
        f'**{cell}**' if (i, j) in table.bold else cell
        for j, cell in enumerate(cells)
      )
    )
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
    for j in range(len(cells)):
      if (i, j) in table.bold:
        cells[j] = f'\\textbf{{{cells[j]}}}'
    lines.append(' & '.join(cells) + r' \\')
  return '\n'.join([*lines, '\\bottomrule', '\\end{tabular}', ''])


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


def marked(policy: str, reads: Sequence[str]) -> str:
  """A policy's name with a mark for each forbidden input it reads."""
  return policy + result.marks(reads)


def row_name(row) -> str:
  """What published numbers call a row that has an alignment and a policy."""
  return f'{row.alignment}, {row.policy}'


def check_published(published: Published) -> None:
  """Checks that published numbers are of metrics there are.

  Args:
    published: As `ablation` takes it.

  Raises:
    ValueError: A row has another key than a metric or 'source'.
  """
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


def _cell(row: pd.Series, key: str, decimals: int) -> str:
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
  return text if np.isnan(spread) else f'{text} ± {100 * spread:.{decimals}f}'


def _best(frame: pd.DataFrame, key: str, decimals: int) -> list[int]:
  """Rows of comparable policies that share the best number, as printed."""
  sign = COLUMNS[key][1]
  if not sign:
    return []
  values = (sign * 100 * frame[key][frame.comparable]).round(decimals).dropna()
  return list(values.index[values == values.max()])


def _starts(frame: pd.DataFrame, above: int) -> frozenset[int]:
  """Rows which begin a new alignment, `above` rows further down."""
  firsts = frame.drop_duplicates('alignment').index
  return frozenset(above + int(i) for i in firsts)
