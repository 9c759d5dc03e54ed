"""Figures for a paper's column: one function each, returning a figure.

matplotlib is imported on first use, and without pyplot: nothing global.
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fastfill_jax import progress
from fastfill_jax.report import groups, result, summary

if TYPE_CHECKING:
  import matplotlib.axes
  import matplotlib.figure

COLUMN, PAGE = 3.4, 6.9  # widths in inches
# Okabe and Ito's colours, told apart by the colour-blind too.
GREY, VERMILION, BLUE = '#777777', '#D55E00', '#0072B2'
CYCLE = (BLUE, '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
FRACTION = 'gallery backfilled (%)'
STYLE = {
  'font.size': 8,
  'axes.titlesize': 8,
  'axes.labelsize': 8,
  'legend.fontsize': 7,
  'xtick.labelsize': 7,
  'ytick.labelsize': 7,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.6,
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'lines.linewidth': 1.2,
  'legend.frameon': False,
  'legend.handlelength': 1.6,
  'svg.hashsalt': 'fastfill',  # the same figure gives the same file
}


def save(
  figure: 'matplotlib.figure.Figure', directory: pathlib.Path, name: str
) -> None:
  """Writes a figure as PNG and SVG.

  Args:
    figure: What to write.
    directory: Where to.
    name: File name without its ending.
  """
  with style():
    figure.savefig(directory / f'{name}.png', dpi=250)
    figure.savefig(directory / f'{name}.svg', metadata={'Date': None})


@contextlib.contextmanager
def style():
  """Sets fonts and lines while a figure is made."""
  import matplotlib

  with matplotlib.rc_context(STYLE):
    yield


def curves(
  results: Sequence[result.Result], alignment: str
) -> 'matplotlib.figure.Figure':
  """A backfilling curve per policy, and below it the gain over random.

  Bands are one standard deviation over seeds, of the gain seed by seed; with
  one seed the standard error over queries, and none around the gain.

  Args:
    results: All seeds and alignments.
    alignment: The one to draw.

  Returns:
    The figure, for a paper's column.
  """
  mine = [one for one in results if one.alignment == alignment]
  table = summary.summarise(mine)
  shown = main_policies(table)
  first = mine[0]
  x = 100 * np.asarray(first.fractions)
  rows = {policy: first.policies.index(policy) for policy in shown}
  values = {
    policy: 100 * np.stack([one.curves['mAP'][i] for one in mine])
    for policy, i in rows.items()
  }
  gains = summary.RANDOM in values and len(values) > 1
  with style():
    figure = _figure(COLUMN, 3.9 if gains else 2.6)
    axes = figure.subplots(
      1 + gains,
      sharex=True,
      squeeze=False,
      height_ratios=(2, 1) if gains else None,
    )[:, 0]
    areas = dict(zip(table.policy, 100 * table['mAP'], strict=True))
    for policy in sorted(values, key=areas.get, reverse=True):
      look = _look(policy, first.policies, first.reads[policy])
      error = 100 * first.standard_error['mAP'][rows[policy]]
      label = f'{policy}  {areas[policy]:.1f}'
      _line(axes[0], x, values[policy], error, label, **look)
      if gains and policy != summary.RANDOM:
        gain = values[policy] - values[summary.RANDOM]
        _line(axes[1], x, gain, None, policy, **look)
    _reference_lines(axes[0], summary.references(results))
    axes[0].set_ylabel('mAP (%)')
    axes[0].legend(title='area', alignment='left', loc='lower right')
    if gains:
      axes[1].axhline(0, color=GREY, linewidth=1)
      axes[1].set_ylabel('mAP over\nrandom (points)')
    axes[-1].set_xlabel(FRACTION)
    axes[-1].set_xlim(0, 100)
  return figure


def alignments(
  results: Sequence[result.Result], most: int = 7
) -> 'matplotlib.figure.Figure':
  """Each alignment under its best comparable policy.

  Args:
    results: All seeds and alignments.
    most: Alignments drawn at most; the best ones.

  Returns:
    The figure, for a paper's column.
  """
  best = summary.best_policies(summary.summarise(results)).head(most)
  with style():
    figure = _figure(COLUMN, 2.8)
    axes = figure.subplots()
    for i, row in enumerate(best.itertuples()):
      mine = [one for one in results if one.alignment == row.alignment]
      j = mine[0].policies.index(row.policy)
      y = 100 * np.stack([one.curves['mAP'][j] for one in mine])
      error = 100 * mine[0].standard_error['mAP'][j]
      x = 100 * np.asarray(mine[0].fractions)
      color = (VERMILION, *CYCLE)[i % (1 + len(CYCLE))]
      label = f'{row.alignment}, {row.policy}  {100 * row.mAP:.1f}'
      _line(axes, x, y, error, label, color=color)
    _reference_lines(axes, summary.references(results))
    axes.legend(title='area', alignment='left', loc='lower right')
    axes.set(xlabel=FRACTION, ylabel='mAP (%)', xlim=(0, 100))
  return figure


def uncertainty(
  results: Sequence[result.Result], alignment: str
) -> 'matplotlib.figure.Figure | None':
  """Predicted uncertainty against true error, one item of a gallery each.

  Args:
    results: All seeds and alignments.
    alignment: The one to draw: its first seed. Ranks are correlated within
      each seed.

  Returns:
    The figure, for a paper's column; None if the alignment predicts nothing.
  """
  mine = [
    one
    for one in results
    if one.alignment == alignment and one.uncertainty is not None
  ]
  if not mine:
    return None
  correlation = np.array([summary.rank_correlation(one) for one in mine])
  x = np.asarray(mine[0].uncertainty, np.float64)
  y = np.asarray(mine[0].error, np.float64)
  # Ten bins of equal count, and the medians of each: the trend.
  bins = np.array_split(np.argsort(x, kind='stable'), min(10, x.size))
  text = f'rank correlation {correlation.mean():.2f}'
  if len(mine) > 1:
    text += f' ± {correlation.std(ddof=1):.2f} ({len(mine)} seeds)'
  with style():
    figure = _figure(COLUMN, 2.5)
    axes = figure.subplots()
    y = np.maximum(y, y[y > 0].min(initial=1.0))  # for the logarithm
    counts = axes.hexbin(
      *(x, y), yscale='log', gridsize=32, mincnt=1, cmap='Blues', bins='log'
    )
    counts.set_rasterized(True)
    axes.plot(
      [np.median(x[b]) for b in bins],
      [np.median(y[b]) for b in bins],
      *('o-',),
      **{'color': VERMILION, 'markersize': 3, 'label': 'median of each tenth'},
    )
    axes.set_xlabel(f'predicted log-variance ({alignment})')
    axes.set_ylabel('squared error')
    axes.set_title(text, loc='left')
    axes.legend(loc='lower right')
    figure.colorbar(counts, label='items', pad=0.02)
  return figure


def training(
  paths: Mapping[str, str | os.PathLike[str]],
) -> 'matplotlib.figure.Figure | None':
  """Loss against step of every run, one panel per group of runs.

  Args:
    paths: Path of metrics.jsonl by name; 'group/run' puts runs of one group,
      such as its seeds, in one panel.

  Returns:
    The figure, for a paper's page; None if no file holds a loss.
  """
  panels: dict[str, list[pd.DataFrame]] = {}
  for name, path in paths.items():
    frame = progress.read(path)
    losses = [c for c in frame if c.rsplit('/', 1)[-1] == 'loss']
    if losses and frame[losses].notna().any(axis=None):
      group = name.rsplit('/', 1)[0]
      panels.setdefault(group, []).append(frame[['step', *losses]])
  if not panels:
    return None
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  with style():
    figure = _figure(PAGE if columns > 1 else COLUMN, 0.4 + 1.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (group, runs) in zip(grid, panels.items(), strict=False):
      for frame in runs:
        for color, name in zip(CYCLE, frame.columns[1:], strict=False):
          points = frame[['step', name]].dropna()
          axes.plot(
            points['step'], points[name], color=color, alpha=0.7, linewidth=0.8
          )
      names = [name for name in runs[0].columns[1:] if name != 'loss']
      for i, name in enumerate(names):
        axes.text(
          *(0.97, 0.95 - 0.12 * i, name),
          color=CYCLE[list(runs[0].columns[1:]).index(name)],
          **{'ha': 'right', 'va': 'top', 'transform': axes.transAxes},
        )
      axes.set_title(group, loc='left')
    for axes in grid[len(panels) :]:
      axes.set_axis_off()
    figure.supxlabel('step', fontsize=8)
    figure.supylabel('loss', fontsize=8)
  return figure


def subgroups(
  results: Sequence[result.Result], alignment: str
) -> 'matplotlib.figure.Figure | None':
  """Two subgroups' mAP, and their gap, as backfilling proceeds.

  Args:
    results: All seeds and alignments.
    alignment: The one to draw.

  Returns:
    The figure, for a paper's page; None without subgroups.
  """
  names = groups.pair(results)
  if names is None:
    return None
  mine = [one for one in results if one.alignment == alignment]
  first = mine[0]
  x = 100 * np.asarray(first.fractions)
  references = groups.references(results, names)
  with style():
    figure = _figure(PAGE, 2.4)
    panels = figure.subplots(1, 3)
    panels[1].sharey(panels[0])
    for policy in main_policies(summary.summarise(mine)):
      i = first.policies.index(policy)
      look = _look(policy, first.policies, first.reads[policy])
      curve = [one.groups for one in mine]
      for axes, name in zip(panels, names, strict=False):
        y = 100 * np.stack([scores[name]['mAP'][i] for scores in curve])
        _line(axes, x, y, None, policy, **look)
      y = 100 * np.stack([groups.gap(one, names)[i] for one in mine])
      _line(panels[2], x, y, None, policy, **look)
    columns = zip(
      *(panels, (*names, 'gap'), ('least', 'most', 'area')), strict=True
    )
    for axes, title, column in columns:
      lines = references[[column]].rename(columns={column: 'mAP'})
      _reference_lines(axes, lines)
      axes.set(title=title, xlabel=FRACTION, xlim=(0, 100))
    panels[0].set_ylabel('mAP (%)')
    panels[2].set_ylabel('mAP (points)')
    panels[1].legend(loc='lower right')
  return figure


def main_policies(table: pd.DataFrame) -> list[str]:
  """The policies worth a line, of one alignment's.

  Args:
    table: From `summary.summarise`, of one alignment.

  Returns:
    Random, sigma, and the best one each of the other comparable policies, of
    the readers of labels and of the oracles; as ordered in the table.
  """
  ranked = table.sort_values('mAP', ascending=False, kind='stable')
  plain = [summary.RANDOM, summary.SIGMA]
  kinds = {}
  for row in ranked.itertuples():
    if row.policy not in plain:
      kinds.setdefault(result.marks(row.reads), row.policy)
  wanted = {*plain, *kinds.values()}
  return [policy for policy in table.policy if policy in wanted]


def _figure(width: float, height: float) -> 'matplotlib.figure.Figure':
  import matplotlib.figure

  return matplotlib.figure.Figure(figsize=(width, height), layout='constrained')


def _look(policy: str, policies: Sequence[str], reads: Sequence[str]):
  """A policy's colour and dashes: dashed reads what a rival may not."""
  others = [p for p in policies if p not in (summary.RANDOM, summary.SIGMA)]
  colors = {summary.RANDOM: GREY, summary.SIGMA: VERMILION}
  if policy not in colors:
    colors[policy] = CYCLE[others.index(policy) % len(CYCLE)]
  linestyle = '-' if result.comparable(reads) else (0, (4, 1.5))
  return {'color': colors[policy], 'linestyle': linestyle}


def _line(
  axes: 'matplotlib.axes.Axes',
  x: np.ndarray,
  y: np.ndarray,
  error: np.ndarray | None,
  label: str,
  **look,
) -> None:
  """Draws the mean of y [seed, cutoff], with a band where one is known."""
  mean = y.mean(axis=0)
  spread = y.std(axis=0, ddof=1) if len(y) > 1 else error
  axes.plot(x, mean, label=label, **look)
  if spread is not None:
    axes.fill_between(
      x,
      mean - spread,
      mean + spread,
      color=look['color'],
      alpha=0.15,
      linewidth=0,
    )


def _reference_lines(
  axes: 'matplotlib.axes.Axes', references: pd.DataFrame
) -> None:
  """Dotted lines at old/old and new/new mAP, their names on them."""
  for pair in ('old/old', 'new/new'):
    value = 100 * references.loc[pair, 'mAP']
    axes.axhline(value, color='black', linewidth=0.8, linestyle=(0, (1, 2)))
    axes.annotate(
      f'{pair}  {value:.1f}',
      (0.02, value),
      xycoords=('axes fraction', 'data'),
      xytext=(0, 2),
      textcoords='offset points',
      fontsize=7,
    )
