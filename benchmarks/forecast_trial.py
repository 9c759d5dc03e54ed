"""A search engineer's first hour: 5,000 pairs, 20,000 items, ids as strings.

  python -m benchmarks.forecast_trial --workdir=DIR

Unit vectors of 64 and 96 dimensions are made up so that a linear map is nearly
right, a network is worse, and the old model stays ahead of a partly backfilled
gallery for long. Runs the commands on files, then embeds everything with the
new model and compares.
"""

import argparse
import pathlib
import shutil

import numpy as np
import pandas as pd

from benchmarks import table
from fastfill_jax.backfill import __main__ as commands
from fastfill_jax.forecast import fitting, study, truths

_PAIRS, _ITEMS = 5_000, 20_000


def make(rng):
  """Old and new embeddings, and labels, of all items."""
  centres = rng.standard_normal((1000, 56))
  label = rng.integers(0, len(centres), _ITEMS)
  latent = centres[label] + 0.9 * rng.standard_normal((_ITEMS, 56))
  old = latent[:, :46] @ rng.standard_normal((46, 64)) / 7
  new = latent[:, 6:] @ rng.standard_normal((50, 96)) / 7
  rows = [x + 0.2 * rng.standard_normal(x.shape) for x in (old, new)]
  rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
  return *(x.astype(np.float32) for x in rows), label


def truth(old, new, label, fits):
  """The whole gallery's mAP, {(alignment, order): [share]}."""
  some = slice(0, 4_000)
  sample = truths.Sample(
    old,
    new,
    new[some],
    old[some],
    np.arange(_ITEMS)[some],
    label,
    label[some],
    distance='cosine',
  )
  return study.truth(sample, fits)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--budget', default='20%')
  args = parser.parse_args()
  shutil.rmtree(args.workdir, ignore_errors=True)
  args.workdir.mkdir(parents=True)
  rng = np.random.default_rng(0)
  old, new, label = make(rng)
  ids = np.array([f'doc-{i:06d}' for i in rng.permutation(_ITEMS)])
  pairs = rng.permutation(_ITEMS)[:_PAIRS]
  files = {
    'old': old,
    'old-ids': ids,
    'new': new[pairs],
    'new-ids': ids[pairs],
    'labels': label[pairs],
  }
  for name, array in files.items():
    np.save(args.workdir / f'{name}.npy', array)
  flags = [f'--{name}={args.workdir / name}.npy' for name in files]
  work = f'--workdir={args.workdir}'
  plan = f'--out={args.workdir}/plan'
  for command in (
    ['fit', *flags, work],
    ['forecast', work],
    ['plan', work, f'--budget={args.budget}', plan],
  ):
    if commands.main(command):
      raise SystemExit(1)
  fits = {
    path.name: fitting.load(path / 'final')
    for path in sorted((args.workdir / 'fits').iterdir())
  }
  forecast = pd.read_csv(args.workdir / 'forecast.csv', keep_default_na=False)
  forecast = forecast[forecast.metric == 'mAP']
  rows = []
  for names, values in truth(old, new, label, fits).items():
    mine = forecast[
      (forecast.alignment == names[0]) & (forecast.order == names[1])
    ].set_index('share')
    row = {'alignment': names[0], 'order': names[1]}
    for share in (0, 0.1, 0.2, 0.5, 1):
      value = values[list(study.SHARES).index(share)]
      said, low, high = mine.loc[share, ['value', 'low', 'high']]
      mark = '' if low <= value <= high else ' !'
      row[f'{share:.0%}'] = f'{100 * said:.1f} / {100 * value:.1f}{mark}'
    rows.append(row)
  print('forecast / true')
  print(pd.DataFrame(rows).to_string(index=False))
  table.write(f'{args.workdir}/trial.csv', rows)


if __name__ == '__main__':
  main()
