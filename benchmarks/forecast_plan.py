"""Time and memory of the plan of a large gallery, and of its growth.

  python -m benchmarks.forecast_plan --items=10000000 --workdir=DIR

The gallery is shards of float16 with ids as strings; both widths are `--dim`.
"""

import argparse
import pathlib
import shutil
import time

import numpy as np

from benchmarks import memory, table
from fastfill_jax.forecast import fitting, holdings, planning
from fastfill_jax.storage import arrays as sharded

_ROWS = 65_536


def make(directory: pathlib.Path, first: int, items: int, dim: int):
  """Writes old embeddings and ids as shards."""
  rng = np.random.default_rng(first)
  for shard, start in enumerate(range(0, items, _ROWS)):
    rows = min(_ROWS, items - start)
    old = rng.standard_normal((rows, dim), np.float32).astype(np.float16)
    ids = np.arange(first + start, first + start + rows)
    sharded.write_shard(directory / 'old', shard, old)
    sharded.write_shard(
      directory / 'id', shard, np.char.add('item-', ids.astype('<U9'))
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--items', type=int, default=1_000_000)
  parser.add_argument('--growth', type=float, default=0.01)
  parser.add_argument('--dim', type=int, default=32)
  parser.add_argument('--methods', default='ridge')
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  args = parser.parse_args()
  more = int(args.items * args.growth)
  shutil.rmtree(args.workdir, ignore_errors=True)
  make(args.workdir / 'gallery', 0, args.items, args.dim)
  make(args.workdir / 'more', args.items, more, args.dim)
  rng = np.random.default_rng(1)
  old = rng.standard_normal((5000, args.dim), np.float32)
  new = np.tanh(old @ rng.standard_normal((args.dim, args.dim), np.float32))
  rows = []
  for method in args.methods.split(','):
    fitted = fitting.fit(method, old, new, max_steps=50)
    plan, grown = args.workdir / method, args.workdir / f'{method} grown'
    order = 'sigma' if fitted.has_uncertainty else 'norm'
    row = {'method': method, 'order': order, 'items': args.items}

    def timed(name, function, row=row):
      start = time.time()
      with memory.PeakMemory() as peak:
        result = function()
      row[f'{name}, s'] = round(time.time() - start, 1)
      row[f'{name}, MiB'] = round(peak.anonymous)
      return result

    source = args.workdir / 'gallery'
    gallery = timed(
      'check',
      lambda source=source: holdings.read(source / 'old', source / 'id'),
    )
    timed(
      'plan',
      lambda plan=plan, gallery=gallery, fitted=fitted, order=order: (
        planning.write(plan, gallery, fitted, order, 'l2')
      ),
    )
    timed(
      'list',
      lambda plan=plan: planning.write_list(plan, args.items // 5),
    )
    source = args.workdir / 'more'
    added = holdings.read(source / 'old', source / 'id')
    timed(
      'grow',
      lambda plan=plan, grown=grown, added=added: planning.grow(
        plan, grown, added
      ),
    )
    rows.append(row | {'more': more})
    print(rows[-1], flush=True)
  table.write(f'{args.workdir}/plan.csv', rows)


if __name__ == '__main__':
  main()
