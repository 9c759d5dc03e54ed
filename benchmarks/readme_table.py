"""README's tables from the summaries of runs, kept in results/.

  python -m benchmarks.readme_table results/digits
  python -m benchmarks.readme_table --keep=runs/digits --name=digits

A folder of results/ holds summary.csv, references.csv, config.json and
versions.json (the command, the commit, the devices) of a run, and its date.
Printed are each alignment's random order and its best comparable ones.
"""

import datetime
import json
import pathlib
import shlex
import shutil

import pandas as pd
from absl import app, flags

_KEEP = flags.DEFINE_string('keep', None, 'A finished workdir to copy from.')
_NAME = flags.DEFINE_string('name', None, 'Its folder in results/.')
_POLICIES = flags.DEFINE_list(
  'policies',
  'random,sigma,entropy,sigma_entropy,learnt_gain,class_mean,distance,gain',
  'The rows of each alignment, where there are.',
)

_RESULTS = pathlib.Path(__file__).parent.parent / 'results'
_FILES = ('summary.csv', 'references.csv', 'config.json', 'versions.json')
_OPTIONAL = ('sequence.csv',)
_METRICS = ('mAP', 'cmc@1')


def keep(workdir: pathlib.Path, name: str):
  """Copies what a table is made from, and notes the day."""
  target = _RESULTS / name
  target.mkdir(parents=True, exist_ok=True)
  for file in (*_FILES, *_OPTIONAL):
    if file in _FILES or (workdir / file).exists():
      shutil.copy(workdir / file, target / file)
  versions = json.loads((target / 'versions.json').read_text('utf-8'))
  versions['date'] = datetime.date.today().isoformat()
  config = json.loads((target / 'config.json').read_text('utf-8'))
  # Where things lay on one machine means nothing on another.
  words = shlex.split(versions['command'])
  words = [word for word in words if not word.startswith('--workdir')]
  for path in ('--config.embed.source=', '--config.run.data_dir='):
    words = [f'{path}DIR' if x.startswith(path) else x for x in words]
  if not words[0].startswith('python'):
    words[0] = 'python -m fastfill_jax.main'
  versions['command'] = ' '.join(words)
  config['embed']['source'] = config['embed']['source'] and 'DIR'
  for key in ('data_dir', 'label_dir'):
    config['run'][key] = None
  for file, held in (('versions', versions), ('config', config)):
    text = json.dumps(held, indent=2) + '\n'
    (target / f'{file}.json').write_text(text, 'utf-8')


def table(folder: pathlib.Path, policies: list[str]) -> str:
  """The Markdown of one run."""
  summary = pd.read_csv(folder / 'summary.csv')
  lines = [
    '| alignment | policy | mAP | CMC@1 | over random, mAP |',
    '|---|---|---:|---:|---:|',
  ]
  for row in pd.read_csv(folder / 'references.csv').to_dict('records'):
    cells = ' | '.join(_number(row, metric) for metric in _METRICS)
    lines.append(f'| {row["pair"]} | | {cells} | |')
  summary['rank'] = summary.policy.map(
    {policy: i for i, policy in enumerate(policies)}
  )
  summary = summary.dropna(subset='rank').sort_values(
    ['alignment', 'rank'], kind='stable'
  )
  for row in summary.to_dict('records'):
    cells = ' | '.join(_number(row, metric) for metric in _METRICS)
    gain = ''
    if row['policy'] != 'random' and pd.notna(row['gain']):
      gain = f'{_number(row, "gain", "+")}, {row["wins"]:.0f}/{row["n"]}'
    oracle = '' if row['comparable'] else ' (reads what others may not)'
    lines.append(
      f'| {row["alignment"]} | {row["policy"]}{oracle} | {cells} | {gain} |'
    )
  return '\n'.join(lines)


def _number(row, key, sign=''):
  text = f'{100 * row[key]:{sign}.1f}'
  spread = row.get(f'{key}_std', float('nan'))
  return text if pd.isna(spread) else f'{text} ± {100 * spread:.1f}'


def main(argv):
  """Keeps a run, or prints tables."""
  if _KEEP.value:
    keep(pathlib.Path(_KEEP.value), _NAME.value)
    argv = [argv[0], str(_RESULTS / _NAME.value)]
  for folder in argv[1:]:
    held = json.loads((pathlib.Path(folder) / 'versions.json').read_text())
    print(f'`{held["command"]}`, {held["machine"]}, {held["date"]}\n')
    print(table(pathlib.Path(folder), _POLICIES.value))


if __name__ == '__main__':
  app.run(main)
