"""The figures: one function each, for a paper's column or page."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastfill_jax.report import drawing, groups, result, summary

_FRACTION = 'gallery backfilled (%)'
_REFERENCES = ['old/old', 'new/new']


def curves(results: Sequence[result.Result], alignment: str) -> Figure:
  """An alignment's curve per policy, and below it the gain over random.

  Bands are one standard deviation over seeds, of the gain seed by seed; with
  one seed the standard error over queries, and none around the gain.
  """
  mine = [one for one in results if one.alignment == alignment]
  first = mine[0]
  x = 100 * np.asarray(first.fractions)
  table = summary.summarise(mine)
  areas = dict(zip(table.policy, 100 * table['mAP'], strict=True))
  shown = sorted(main_policies(table), key=areas.get, reverse=True)
  base = _stack(mine, summary.RANDOM)[0] if summary.RANDOM in shown else None
  rows = 1 + (base is not None and len(shown) > 1)
  with drawing.figure(drawing.COLUMN, 1.3 * (1 + rows)) as figure:
    shape = {'squeeze': False, 'height_ratios': (3, 2)[:rows]}
    axes = figure.subplots(rows, sharex=True, **shape)[:, 0]
    for policy in shown:
      look = drawing.look(policy, first.reads[policy])
      y, error = _stack(mine, policy)
      label = f'{policy}  {areas[policy]:.1f}'
      drawing.line(axes[0], x, y, error, label, **look)
      if rows > 1 and policy != summary.RANDOM:
        drawing.line(axes[1], x, y - base, None, policy, **look)
    drawing.reference_lines(axes[0], summary.levels(results, alignment))
    axes[0].set_ylabel('mAP (%)')
    axes[0].legend(title='area', alignment='left', loc='lower right')
    if rows > 1:
      axes[1].axhline(0, color=drawing.GREY, linewidth=1)
      axes[1].set_ylabel('mAP over\nrandom (points)')
    axes[-1].set(xlabel=_FRACTION, xlim=(0, 100))
    figure.align_ylabels()
  return figure


def alignments(results: Sequence[result.Result]) -> Figure | None:
  """The best alignments, each under its best comparable policy, if any is."""
  best = summary.best_policies(summary.summarise(results)).head(7)
  if best.empty:
    return None
  with drawing.figure(drawing.COLUMN, 2.6 + 0.13 * len(best)) as figure:
    axes = figure.subplots()
    colors = (drawing.VERMILION, *drawing.CYCLE)
    for i, row in enumerate(best.itertuples()):
      mine = [one for one in results if one.alignment == row.alignment]
      x = 100 * np.asarray(mine[0].fractions)
      label = f'{row.alignment}, {row.policy}  {100 * row.mAP:.1f}'
      color = colors[i % len(colors)]
      drawing.line(axes, x, *_stack(mine, row.policy), label, color=color)
    drawing.reference_lines(axes, summary.levels(results, results[0].alignment))
    # Curves start anywhere on the left: no corner is free for certain.
    figure.legend(title='area', alignment='left', loc='outside lower center')
    axes.set(xlabel=_FRACTION, ylabel='mAP (%)', xlim=(0, 100))
  return figure


def uncertainty(
  results: Sequence[result.Result], alignment: str
) -> Figure | None:
  """Predicted uncertainty against true error, item by item, if it is predicted.

  In the alignment's first seed. Ranks are correlated within every seed, since
  seeds differ in scale.
  """
  mine = [
    one
    for one in results
    if one.alignment == alignment and one.uncertainty is not None
  ]
  if not mine:
    return None
  correlations = np.array([summary.rank_correlation(one) for one in mine])
  text = f'{alignment}: rank correlation {correlations.mean():.2f}'
  if len(mine) > 1:
    text += f' ± {correlations.std(ddof=1):.2f} ({len(mine)} seeds)'
  x = np.asarray(mine[0].uncertainty, np.float64)
  y = np.asarray(mine[0].error, np.float64)
  y = np.maximum(y, y[y > 0].min(initial=1.0))  # an error of 0 has no logarithm
  bins = np.array_split(np.argsort(x, kind='stable'), min(10, x.size))
  with drawing.figure(drawing.COLUMN, 2.5) as figure:
    axes = figure.subplots()
    looks = {'gridsize': 32, 'cmap': drawing.blues(), 'linewidths': 0.1}
    cells = axes.hexbin(x, y, yscale='log', bins='log', mincnt=1, **looks)
    cells.set_rasterized(True)
    axes.plot(
      [np.median(x[items]) for items in bins],
      [np.median(y[items]) for items in bins],
      marker='o',
      markersize=3,
      color=drawing.VERMILION,
      label='median of each tenth',
    )
    axes.set(
      xlabel='uncertainty (predicted log-variance)',
      ylabel='squared error of the embedding',
      title=text,
    )
    axes.legend(loc='lower right')
    figure.colorbar(cells, label='items', pad=0.02)
  return figure


def training(paths: Mapping[str, str | os.PathLike[str]]) -> Figure | None:
  """Loss against step of every run, one panel per group of runs, if any.

  Args:
    paths: Path of metrics.jsonl by name; 'group/run' puts runs of one group,
      such as its seeds, in one panel. Each metric whose name ends in 'loss'
      is a colour.
  """
  panels: dict[str, list[pd.DataFrame]] = {}
  for name, path in paths.items():
    frame = _losses(path)
    if frame.shape[1] > 1:
      panels.setdefault(name.rsplit('/', 1)[0], []).append(frame)
  if not panels:
    return None
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  width = drawing.COLUMN if columns == 1 else drawing.PAGE
  with drawing.figure(width, 0.4 + 1.5 * rows) as figure:
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (group, runs) in zip(grid, panels.items(), strict=False):
      names = dict.fromkeys(name for run in runs for name in run.columns[1:])
      colors = dict(zip(names, drawing.CYCLE, strict=False))
      for run in runs:
        for name, color in colors.items():
          points = run[['step', name]].dropna() if name in run else run[:0]
          axes.plot(
            points['step'], points.iloc[:, -1], color=color, linewidth=0.8
          )
      if len(colors) > 1:
        for i, (name, color) in enumerate(colors.items()):
          x, y = 0.97, 0.97 - 0.12 * i
          look = {'color': color, 'ha': 'right', 'va': 'top', 'fontsize': 7}
          axes.text(x, y, name, transform=axes.transAxes, **look)
      axes.set_title(group)
    for axes in grid[len(panels) :]:
      axes.set_axis_off()
    figure.supxlabel('step')
    figure.supylabel('loss')
  return figure


def subgroups(
  results: Sequence[result.Result], alignment: str
) -> Figure | None:
  """Two subgroups' mAP, and their gap, as backfilling proceeds, if any."""
  names = groups.pair(results)
  if names is None:
    return None
  mine = [one for one in results if one.alignment == alignment]
  first = mine[0]
  x = 100 * np.asarray(first.fractions)
  references = groups.references(results, names).loc[_REFERENCES]
  with drawing.figure(drawing.PAGE, 2.4) as figure:
    panels = figure.subplots(1, 3)
    panels[1].sharey(panels[0])
    for policy in main_policies(summary.summarise(mine)):
      i = first.policies.index(policy)
      look = drawing.look(policy, first.reads[policy])
      for axes, name in zip(panels, names, strict=False):
        y = np.stack([one.groups[name]['mAP'][i] for one in mine])
        drawing.line(axes, x, 100 * y, None, policy, **look)
      y = np.stack([groups.gap(one, names)[i] for one in mine])
      drawing.line(panels[2], x, 100 * y, None, policy, **look)
    titles = (*names, 'gap')
    levels = ('least', 'most', 'area')
    for axes, title, level in zip(panels, titles, levels, strict=True):
      drawing.reference_lines(axes, references[level])
      axes.set(title=title, xlabel=_FRACTION, xlim=(0, 100))
    panels[0].set_ylabel('mAP (%)')
    panels[2].set_ylabel('difference of mAP (points)')
    panels[1].legend(loc='lower right')
  return figure


def main_policies(table: pd.DataFrame) -> list[str]:
  """The policies worth a line, of one alignment's rows of `summary.summarise`.

  Random, sigma, and the best one each of the other comparable policies, of
  those that read labels and of the oracles; as ordered in the table.
  """
  always = (summary.RANDOM, summary.SIGMA)
  ranked = table.sort_values('mAP', ascending=False, kind='stable')
  others = ranked[~ranked.policy.isin(always)]
  kinds = others.reads.map(result.marks)
  best = others[~kinds.duplicated()].policy
  return [name for name in table.policy if name in {*always, *best}]


def _stack(
  results: Sequence[result.Result], policy: str
) -> tuple[np.ndarray, np.ndarray]:
  """One policy's mAP, [seed, cutoff], and the first one's error, in %."""
  i = results[0].policies.index(policy)
  y = np.stack([one.curves['mAP'][i] for one in results])
  return 100 * y, 100 * results[0].standard_error['mAP'][i]


def _losses(path: str | os.PathLike[str]) -> pd.DataFrame:
  """Step and losses of a metrics.jsonl, of its whole lines."""
  text = pathlib.Path(path).read_text('utf-8')
  whole = text[: text.rfind('\n') + 1].splitlines()
  frame = pd.DataFrame([json.loads(line) for line in whole])
  names = [name for name in frame if name.rsplit('/', 1)[-1] == 'loss']
  return frame.reindex(columns=['step', *names]).dropna(axis=1, how='all')
