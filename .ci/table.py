"""Looks at the digits' table: python .ci/table.py WORKDIR."""

import pathlib
import sys

import pandas as pd

workdir = pathlib.Path(sys.argv[1])
table = pd.read_csv(workdir / 'summary.csv').set_index(['alignment', 'policy'])
pairs = pd.read_csv(workdir / 'references.csv').set_index('pair')
fastfill, ours = 'l2+disc+u (FastFill)', 'mixfill (ours)'
# Well inside what three seeds give; a broken method is far outside.
claims = {
  'new/new is a good encoder': 0.88 < pairs.mAP['new/new'] < 0.93,
  'old/old is a poor one': pairs.mAP['old/old'] < 0.6,
  'every seed is there': (table.n == 3).all(),
  'FCT is above ridge': (
    table.mAP['l2 (FCT)', 'random'] > table.mAP['ridge', 'random'] + 0.05
  ),
  'sigma beats random in every seed': table.wins[fastfill, 'sigma'] == 3,
  'its area is known': 0.83 < table.mAP[fastfill, 'sigma'] < 0.89,
  'ours is above it': (
    table.mAP[ours, 'sigma_entropy'] > table.mAP[fastfill, 'sigma']
  ),
  'the report is written': 'Ablation' in (workdir / 'report.md').read_text(),
}
for claim, holds in claims.items():
  print('ok' if holds else 'WRONG', claim)
sys.exit(not all(claims.values()))
