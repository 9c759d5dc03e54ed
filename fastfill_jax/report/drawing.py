"""How the figures look: sizes, colours, lines with bands, dotted references.

matplotlib is used without pyplot: nothing is global.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import numpy as np
import pandas as pd

from fastfill_jax.report import result, summary

COLUMN, PAGE = 3.4, 6.9  # a paper's widths, in inches
# Okabe and Ito's colours, told apart by the colour-blind too.
GREY, VERMILION, BLUE = '#777777', '#D55E00', '#0072B2'
CYCLE = (BLUE, '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
# Of policies that are neither random nor sigma, by their marks.
_KINDS = {
  '': BLUE,
  result.MARKS['labels']: CYCLE[1],
  result.MARKS['new']: CYCLE[-1],
  result.MARKS['gains']: CYCLE[3],
}
_STYLE = {
  'font.size': 8,
  'axes.titlesize': 8,
  'axes.titlelocation': 'left',
  'axes.labelsize': 8,
  'figure.labelsize': 8,
  'legend.fontsize': 7,
  'legend.title_fontsize': 7,
  'xtick.labelsize': 7,
  'ytick.labelsize': 7,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.6,
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'lines.linewidth': 1.2,
  # A white ground without a frame: dotted lines may pass behind.
  'legend.edgecolor': 'none',
  'legend.framealpha': 0.9,
  'legend.handlelength': 1.6,
  'legend.labelspacing': 0.3,
  'svg.hashsalt': 'fastfill',  # the same figure gives the same file
}


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Sets fonts and lines while a figure is made or saved."""
  with matplotlib.rc_context(_STYLE):
    yield


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[matplotlib.figure.Figure]:
  """A new figure, sizes in inches, while it is drawn."""
  size = width, height
  with style():
    yield matplotlib.figure.Figure(figsize=size, layout='constrained')


def save(
  drawn: matplotlib.figure.Figure, directory: pathlib.Path, name: str
) -> None:
  """Writes a figure as NAME.png and NAME.svg."""
  with style():
    drawn.savefig(directory / f'{name}.png', dpi=250)
    drawn.savefig(directory / f'{name}.svg', metadata={'Date': None})


def look(policy: str, reads: Sequence[str]) -> dict[str, Any]:
  """A policy's colour, and dashes if what it reads makes it no rival.

  The same in every figure and run; arguments for `line`.
  """
  marks = result.marks(reads)
  named = {summary.RANDOM: GREY, summary.SIGMA: VERMILION}
  color = named.get(policy) or _KINDS.get(marks, CYCLE[-2])
  return {'color': color, 'linestyle': (0, (4, 1.5)) if marks else '-'}


def line(
  axes: matplotlib.axes.Axes,
  x: np.ndarray,
  y: np.ndarray,
  error: np.ndarray | None,
  label: str,
  **looks: Any,
) -> None:
  """Draws a mean over seeds with a band of one standard deviation.

  Args:
    axes: Where to.
    x: [cutoff].
    y: [seed, cutoff].
    error: The band's half width in place of a deviation, [cutoff], where
      there is one seed; None for no band.
    label: Its name in the legend.
    **looks: Colour and line style.
  """
  mean = y.mean(axis=0)
  spread = y.std(axis=0, ddof=1) if len(y) > 1 else error
  axes.plot(x, mean, label=label, **looks)
  if spread is not None:
    low, high = mean - spread, mean + spread
    color = looks['color']
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def reference_lines(
  axes: matplotlib.axes.Axes, levels: pd.Series | dict[str, float]
) -> None:
  """Dotted lines with their names on them, at levels in [0, 1], in %."""
  for name, level in levels.items():
    y = 100 * level
    axes.axhline(y, color='black', linewidth=0.8, linestyle=(0, (1, 2)))
    axes.annotate(
      f'{name}  {y:.1f}',
      xy=(0.02, y),
      xycoords=('axes fraction', 'data'),
      xytext=(0, 2),
      textcoords='offset points',
      fontsize=7,
    )


def blues() -> matplotlib.colors.Colormap:
  """Shades of blue of which the lightest still shows on white."""
  shades = matplotlib.colormaps['Blues'](np.linspace(0.25, 1, 256))
  return matplotlib.colors.ListedColormap(shades)
