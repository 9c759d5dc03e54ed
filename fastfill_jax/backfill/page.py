"""The status as lines for a terminal and as one page of HTML."""

import html

import numpy as np

_WIDTH, _HEIGHT = 640, 260


def rows(status: dict) -> list[tuple[str, str]]:
  """What to show, in words."""
  lines = [
    ('store', f'{status["store"]}, serving the {status["serving"]} field'),
    ('new', f'{status["new"]:,} of {status["items"]:,} ({_percent(status)})'),
    ('aligned', f'{status["aligned"]:,}'),
    ('in no space yet', f'{status["missing"]:,}'),
    ('newcomers, deleted', f'{status["newcomers"]:,}, {status["deleted"]:,}'),
    ('rate', _or_unknown(status['items_per_second'], '{:,.0f} items/s')),
    ('left', _duration(status['seconds_left'])),
    ('cost', f'${status["cost"]:,.2f}' + _more(status['cost_left'])),
    ('failed', f'{len(status["failed"]):,}'),
  ]
  lines += [('tag ' + tag, f'{n:,}') for tag, n in status['counts'].items()]
  if forecast := status['forecast']:
    lines.append(('forecast', _forecast(forecast)))
  if probe := status['probe']:
    values = [f'{k} {v:.3f}' for k, v in probe.items() if k != 'queries']
    lines.append((f'probe, {probe["queries"]} queries', ', '.join(values)))
  lines += [('warning', text) for text in status['warnings']]
  return lines


def document(status: dict, curve: np.ndarray | None) -> str:
  """A page of HTML that needs no other file.

  Args:
    status: What `status.collect` returned.
    curve: The forecast's [point, (share, value, low, high)], if there is one.
  """
  table = ''.join(
    f'<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
    for name, text in rows(status)
  )
  failed = ''.join(
    f'<tr><td>{html.escape(i)}</td><td>{html.escape(why)}</td></tr>'
    for i, why in list(status['failed'].items())[:100]
  )
  if failed:
    failed = f'<h2>Failed</h2><table>{failed}</table>'
  figure = '' if curve is None else _figure(status, curve)
  return (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<title>Backfill</title><style>body{font:15px system-ui;margin:2em}'
    'th{text-align:left;font-weight:normal;color:#666;padding-right:2em}'
    'svg{margin:1em 0}</style>'
    f'<h1>Backfill: {_percent(status)}</h1>{figure}<table>{table}</table>'
    f'{failed}</html>\n'
  )


def _figure(status, curve):
  """The forecast with its band, the old model's level, and where we are."""
  forecast = status['forecast']
  levels = [curve[:, 2].min(), curve[:, 3].max()]
  if forecast['old'] is not None:
    levels.append(forecast['old'])
  low, high = min(levels), max(levels)
  span = (high - low) or 1.0

  def point(share, value):
    x = 10 + share * (_WIDTH - 20)
    y = _HEIGHT - 30 - (value - low) / span * (_HEIGHT - 60)
    return f'{x:.1f},{y:.1f}'

  def line(points, style):
    joined = ' '.join(point(x, y) for x, y in points)
    return f'<polyline points="{joined}" fill="none" {style}/>'

  upper = [point(x, y) for x, y in curve[:, [0, 3]]]
  lower = [point(x, y) for x, y in curve[::-1, [0, 2]]]
  now = status['share']
  parts = [
    f'<polygon points="{" ".join(upper + lower)}" fill="#cde"/>',
    line(curve[:, :2], 'stroke="#069" stroke-width="2"'),
    line([(now, low), (now, high)], 'stroke="#c30" stroke-dasharray="4"'),
  ]
  if (old := forecast['old']) is not None:
    parts.append(line([(0, old), (1, old)], 'stroke="#999"'))
  name = html.escape(forecast['metric'])
  parts.append(
    f'<text x="10" y="18">{name}: {low:.3f} to {high:.3f}; grey the old '
    f'model, red now</text><text x="10" y="{_HEIGHT - 6}">0%</text>'
    f'<text x="{_WIDTH - 50}" y="{_HEIGHT - 6}">100%</text>'
  )
  return f'<svg width="{_WIDTH}" height="{_HEIGHT}">{"".join(parts)}</svg>'


def _percent(status):
  return f'{100 * status["share"]:.1f}%'


def _forecast(forecast):
  text = (
    f'{forecast["metric"]} {forecast["value"]:.3f} '
    f'({forecast["low"]:.3f} to {forecast["high"]:.3f}), '
    f'{forecast["full"]:.3f} in the end'
  )
  if forecast['old'] is not None:
    text += f', old model {forecast["old"]:.3f}'
    share = forecast['overtakes_at']
    text += (
      ', never overtaken'
      if share is None
      else f', overtaken at {100 * share:.0f}%'
    )
  return text


def _or_unknown(value, form):
  return 'unknown' if value is None else form.format(value)


def _more(cost):
  return '' if cost is None else f', ${cost:,.2f} to come'


def _duration(seconds):
  if seconds is None:
    return 'unknown'
  hours, rest = divmod(round(seconds), 3600)
  return (
    f'{hours} h {rest // 60} min'
    if hours
    else f'{rest // 60} min {rest % 60} s'
  )
