"""What people read: a page, a figure, and the forecast as a table."""

import pathlib

import numpy as np
import pandas as pd

from fastfill_jax.forecast import decision, study

_NAMES = {
  'mAP': 'mean average precision',
  'cmc@1': 'queries whose first result is right',
  'ndcg@10': 'nDCG@10',
  'overlap@10': 'share of the first ten results that the new model gives',
}
_SATURATED = 0.95
_VERDICTS = {'do': 'Do it', 'do not': "Don't", 'cannot tell': 'Not known yet'}


def table(forecast: study.Forecast, gallery: int) -> pd.DataFrame:
  """A row for each alignment, order, share and metric, with its band.

  Two lines have a row at every share, too: old/old, which is serving the old
  model, and new/new, which is everything backfilled.
  """
  band = forecast.bands(gallery)
  ends = np.stack([band.value, band.low, band.high], axis=-1)
  curves = [*forecast.curves, ('', 'new/new')]
  full = np.broadcast_to(ends[1:2, :, -1:], ends[:1].shape)
  ends = np.concatenate([ends, full])
  rows = [
    (*curves[i], forecast.shares[k], forecast.metrics[j], *ends[i, j, k])
    for i, j, k in np.ndindex(ends.shape[:3])
    if np.isfinite(ends[i, j, k]).all()
  ]
  columns = ('alignment', 'order', 'share', 'metric', 'value', 'low', 'high')
  return pd.DataFrame(rows, columns=columns)


def write(
  directory: pathlib.Path,
  forecast: study.Forecast,
  gallery: int,
  decided: decision.Decision,
  notes: tuple[str, ...],
  budget: str,
):
  """Writes plan.md, forecast.csv and plan.png into a folder."""
  directory = pathlib.Path(directory)
  table(forecast, gallery).to_csv(directory / 'forecast.csv', index=False)
  text = page(forecast, gallery, decided, notes, budget)
  (directory / 'plan.md').write_text(text, 'utf-8')
  figure(directory / 'plan.png', forecast, gallery, decided)


def page(forecast, gallery, decided, notes, budget) -> str:
  """The page, in Markdown."""
  lines = [
    f'# {_VERDICTS[decided.verdict]}',
    '',
    decided.says,
    '',
    f'In {_NAMES.get(decided.metric, decided.metric)}, percent, for a gallery '
    f'of {gallery:,} items; in brackets the 90% band.',
    '',
    '| | |',
    '|---|---|',
  ]
  rows = [('serving the old model (old/old)', decided.old)]
  rows += [('aligned, nothing backfilled', decided.aligned)]
  if decided.share is not None:
    what = f'{budget}, that is {decided.share:.1%} backfilled'
    rows += [(f'**{what}**', f'**{decided.at_share}**')]
  rows += [('everything backfilled', decided.full)]
  for gain, found in decided.reach.items():
    share, early, late = (f'{x:.0%}' for x in found)
    what = f'{gain:.0%} of the gain of a full backfill'
    rows += [(what, f'at a share of {share} ({early} to {late})')]
  if decided.full.value <= decided.aligned.value:
    rows = [row for row in rows if 'of the gain' not in row[0]]
    rows += [('gain of a full backfill', 'none over the aligned gallery')]
  if decided.old is not None:
    rows += [('as good as the old model', _from(decided.overtakes))]
    surely = _from(decided.overtakes_surely)
    rows += [('and with the whole band', surely)]
  else:
    rows = [row for row in rows if row[1] is not None]
  lines += [f'| {name} | {value} |' for name, value in rows]
  lines += [
    '',
    f'Alignment `{decided.alignment}`, order `{decided.order}`: the best of '
    f'{len(forecast.curves) - 1} on the {forecast.fit_pairs:,} fitting pairs. '
    f'The forecast is from {forecast.items:,} others, which had no part in it.',
    '',
    '![forecast](plan.png)',
    '',
    '| alignment | order | 0% | 10% | 20% | 50% | 100% |',
    '|---|---|---:|---:|---:|---:|---:|',
  ]
  band = forecast.bands(gallery)
  for curve, names in enumerate(forecast.curves):
    values = band.value[curve, 0]
    if np.isfinite(values).all():
      points = np.interp([0, 0.1, 0.2, 0.5, 1], forecast.shares, values)
      cells = ' | '.join(f'{100 * point:.1f}' for point in points)
      lines.append(f'| {names[0]} | {names[1]} | {cells} |')
  lines += ['', *(f'- {note}' for note in notes)]
  ratio = gallery / forecast.items
  lines += [
    f'- The gallery is {ratio:.1f} times the sample: what its density changes '
    'is extrapolated from halves of the sample, and doubted in the band.',
  ]
  easy = np.nanmax(forecast.whole[:, 0]) > _SATURATED
  if ratio > 2 and easy and not decided.metric.startswith('overlap'):
    lines.append(
      '- In so thin a sample nearly everything is found, and then the band is '
      'too narrow. Take more items, or harder queries.'
    )
  lines.append('')
  return '\n'.join(lines)


def _from(share):
  return 'never' if share is None else f'from a share of {share:.0%} on'


def figure(path, forecast, gallery, decided):
  """The picked curve with its band, and the two lines that it lies between."""
  from matplotlib.figure import Figure

  from fastfill_jax.report import drawing

  band = forecast.bands(gallery)
  number = forecast.curves.index((decided.alignment, decided.order))
  value, low, high = (
    100 * x[number, 0] for x in (band.value, band.low, band.high)
  )
  shares = 100 * forecast.shares
  with drawing.style():
    drawn = Figure(figsize=(5, 3.2), layout='constrained')
    axes = drawn.add_subplot()
    axes.fill_between(shares, low, high, color=drawing.BLUE, alpha=0.2, lw=0)
    axes.plot(shares, value, color=drawing.BLUE)
    name = f'{decided.alignment}, {decided.order}'
    axes.annotate(
      f'new model, by {name}',
      (shares[-1], value[-1]),
      (0, 6),
      textcoords='offset points',
      ha='right',
      color=drawing.BLUE,
    )
    if decided.old is not None:
      old = 100 * decided.old.value
      axes.axhline(old, color=drawing.GREY, ls='--')
      axes.annotate(
        'old model, as today',
        (0, old),
        (2, 3),
        textcoords='offset points',
        color=drawing.GREY,
      )
    if decided.share is not None:
      axes.axvline(100 * decided.share, color=drawing.VERMILION, ls=':')
      axes.annotate(
        'affordable',
        (100 * decided.share, axes.get_ylim()[0]),
        (3, 3),
        textcoords='offset points',
        color=drawing.VERMILION,
      )
    axes.set_xlabel('share of the gallery embedded again, %')
    axes.set_ylabel(f'{_NAMES.get(decided.metric, decided.metric)}, %')
    axes.set_title(f'{_VERDICTS[decided.verdict]}. {gallery:,} items, 90% band')
    drawn.savefig(path, dpi=150)
