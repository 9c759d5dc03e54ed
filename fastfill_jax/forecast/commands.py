"""The commands sample, fit, forecast, plan and grow.

sample    which items to embed first
fit       reads and checks everything, fits every alignment
forecast  what every alignment and order gives at every share
plan      the decision for a budget, and the gallery aligned and in order
grow      new items into a plan
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np

from fastfill_jax.forecast import (
  decision,
  evidence,
  fitting,
  holdings,
  learning,
  page,
  planning,
  sampling,
  study,
)

_SOURCES = {
  'old': 'old embeddings of the pairs, or with ids of the whole gallery',
  'new': 'new embeddings of the pairs',
  'old-ids': 'ids of --old, if not in the same file',
  'new-ids': 'ids of --new',
  'labels': 'labels of the pairs, in the order of --new',
  'queries': 'new embeddings of queries; else the pairs are the queries',
  'queries-ids': 'their ids',
  'queries-old': 'their old embeddings, for what the old model gives today',
  'queries-labels': 'their labels',
  'qrels': 'judgements: TREC qrels or the TSV of BEIR',
}


def _add_sample(parser):
  parser.add_argument('--old', required=True, help='old embeddings, all')
  parser.add_argument('--old-ids', default='', help='their ids')
  parser.add_argument('--count', type=int, default=5000, help='items to draw')
  parser.add_argument('--how', default='random', choices=sampling.HOWS)
  parser.add_argument('--taken', default='', help='an earlier list, to go on')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', default='sample.txt', help='a line for each id')


def _sample(args) -> int:
  gallery = holdings.read(args.old, args.old_ids)
  earlier = []
  if args.taken:
    earlier = pathlib.Path(args.taken).read_text('utf-8').splitlines()
  rows = np.empty(0, np.int64)
  if earlier:
    wanted = np.array(earlier)
    if gallery.id is None or np.asarray(gallery.id[:1]).dtype.kind != 'U':
      wanted = wanted.astype(np.int64)
    ids = np.arange(len(gallery)) if gallery.id is None else gallery.id
    rows = holdings.find(ids, wanted)
    if (rows < 0).any():
      missing = earlier[int(np.argmax(rows < 0))]
      raise ValueError(f'{args.taken}: {missing} is not in {args.old}.')
  drawn = sampling.draw(gallery.rows, args.count, args.how, args.seed, rows)
  ids = drawn if gallery.id is None else gallery.id[drawn]
  text = '\n'.join([*earlier, *map(str, ids.tolist())])
  pathlib.Path(args.out).write_text(text + '\n', 'utf-8')
  told = 'at random, as a forecast needs'
  if args.how == 'spread':
    told = 'spread over the old space: fit with it, forecast with care'
  print(
    f'{args.out}: {len(ids)} more of {len(gallery)} items, {told}; '
    f'{len(earlier) + len(ids)} in all. Embed them with the new model, then '
    '`fit`; `forecast` says whether more would change the answer.'
  )
  return 0


def _add_fit(parser):
  for name, told in _SOURCES.items():
    required = name in ('old', 'new')
    parser.add_argument(f'--{name}', required=required, default='', help=told)
  parser.add_argument(
    '--distance', default='auto', choices=('auto', 'l2', 'cosine')
  )
  parser.add_argument(
    '--methods', default='', help=f'of {",".join(fitting.METHODS)}'
  )
  parser.add_argument('--max-steps', type=int, help='of a network')
  parser.add_argument('--seed', type=int, default=0)
  _add_workdir(parser)


def _add_workdir(parser):
  parser.add_argument('--workdir', required=True, help='of fits and forecast')


def _fit(args) -> int:
  start, workdir = time.time(), pathlib.Path(args.workdir)
  fields = (name.replace('-', '_') for name in (*_SOURCES, 'distance'))
  sources = evidence.Sources(**{name: getattr(args, name) for name in fields})
  sources = sources.absolute()
  held = evidence.gather(sources)
  widths = held.sample.old.shape[1], held.sample.new.shape[1]
  methods = [name for name in args.methods.split(',') if name]
  methods = methods or default_methods(*widths)
  for method in methods:
    fitting.check(method, *widths)
  parts = study.split(held.sample, args.seed)
  print(f'{len(held.sample.old)} pairs of {widths}, all well.', flush=True)
  recipe = {'max_steps': args.max_steps} if args.max_steps else {}
  for method in methods:
    fits = study.fit(method, held.sample, parts, args.seed, **recipe)
    for name, fitted in fits.items():
      fitted.save(workdir / 'fits' / method / name)
    print(f'{method}: fitted after {time.time() - start:.0f} s', flush=True)
  settings = {
    'sources': dataclasses.asdict(sources),
    'methods': methods,
    'distance': held.sample.distance,
    'seed': args.seed,
    'recipe': recipe,
  }
  text = json.dumps(settings, indent=2)
  (workdir / 'fit.json').write_text(text, 'utf-8')
  return 0


def default_methods(old_dim: int, new_dim: int) -> list[str]:
  """Alignments to try where nobody says which."""
  methods = ['identity'] if old_dim == new_dim else []
  return [*methods, 'procrustes', 'ridge', 'l2+u']


def _add_forecast(parser):
  _add_workdir(parser)
  parser.add_argument('--gallery-size', type=int, help="else --old's rows")


def _forecast(args) -> int:
  start, workdir = time.time(), pathlib.Path(args.workdir)
  settings, held = _read(workdir)
  parts = study.split(held.sample, settings['seed'])
  fits = {
    method: {
      name: fitting.load(workdir / 'fits' / method / name)
      for name in study.FITS
    }
    for method in settings['methods']
  }
  result = study.run(held.sample, parts, fits, seed=settings['seed'])
  result.save(workdir / 'forecast.npz')
  gallery = args.gallery_size or held.gallery
  page.table(result, gallery).to_csv(workdir / 'forecast.csv', index=False)
  learnt = learning.measure(
    held.sample, parts, fits, result, settings['seed'], **settings['recipe']
  )
  learning.table(learnt, result).to_csv(workdir / 'learning.csv', index=False)
  more = learning.says(learnt, result, decision.pick(result), gallery)
  notes = [*held.notes, _picked_by(held.sample), more]
  (workdir / 'notes.json').write_text(json.dumps(notes), 'utf-8')
  print(more)
  print(f'{workdir}/forecast.csv after {time.time() - start:.0f} s')
  return 0


def _picked_by(sample):
  if sample.truth == 'judgements':
    return (
      'Judgements only judge: the alignment and the order were picked by the '
      "same queries' agreement with the new model on the fitting pairs."
    )
  return (
    f'The alignment and the order were picked by {sample.metrics[0]} on the '
    'fitting pairs.'
  )


def _read(workdir):
  path = workdir / 'fit.json'
  if not path.exists():
    raise ValueError(f'{workdir} holds no fits; run `fit` with this --workdir.')
  settings = json.loads(path.read_text('utf-8'))
  return settings, evidence.gather(evidence.Sources(**settings['sources']))


def _add_plan(parser):
  _add_workdir(parser)
  parser.add_argument(
    '--gallery', default='', help='old embeddings; else --old'
  )
  parser.add_argument('--gallery-ids', default='', help='their ids')
  parser.add_argument('--budget', default='', help='20%%, 200000, $500 or 6h')
  parser.add_argument('--price', type=float, help='dollars an item')
  parser.add_argument('--rate', type=float, help='items embedded a second')
  parser.add_argument('--alignment', default='', help='in place of the pick')
  parser.add_argument('--order', default='', help='in place of the pick')
  parser.add_argument('--encoder', default='', help='name of the new model')
  parser.add_argument('--list', default='csv', choices=('csv', 'parquet'))
  parser.add_argument('--out', required=True, help='the plan, a new folder')
  _add_ray(parser)


def _add_ray(parser):
  parser.add_argument('--ray', action='store_true', help='align on a cluster')


def _plan(args) -> int:
  start, workdir = time.time(), pathlib.Path(args.workdir)
  path, out = workdir / 'forecast.npz', pathlib.Path(args.out)
  if not path.exists():
    raise ValueError(f'{workdir} holds no forecast; run `forecast` first.')
  forecast = study.load(path)
  settings = json.loads((workdir / 'fit.json').read_text('utf-8'))
  sources = settings['sources']
  source = args.gallery or sources['old']
  ids = args.gallery_ids or ('' if args.gallery else sources['old_ids'])
  gallery = holdings.read(source, ids)
  size, share = len(gallery), None
  if args.budget:
    share = decision.parse_budget(args.budget, size, args.price, args.rate)
  decided = decision.decide(forecast, size, share, _chosen(args, forecast))
  fitted = fitting.load(workdir / 'fits' / decided.alignment / 'final')
  notes = json.loads((workdir / 'notes.json').read_text('utf-8'))
  planning.write(
    *(out, gallery, fitted, decided.order, settings['distance'], args.encoder),
    by_ray=args.ray,
  )
  items = size if share is None else int(share * size)
  planning.write_list(out, items, args.list)
  page.write(out, forecast, size, decided, tuple(notes), args.budget)
  print((out / 'plan.md').read_text('utf-8').split('![')[0])
  print(f'{out}: {size} items after {time.time() - start:.0f} s')
  return 0


def _chosen(args, forecast):
  """The curve that the flags name, or None."""
  if not args.alignment and not args.order:
    return None
  names = args.alignment, args.order
  if names not in forecast.curves[1:]:
    raise ValueError(
      f'--alignment and --order give {names}; forecast are '
      f'{forecast.curves[1:]}.'
    )
  return forecast.curves.index(names)


def _add_grow(parser):
  parser.add_argument('--plan', required=True, help='a finished plan')
  parser.add_argument('--old', required=True, help='of the new items')
  parser.add_argument('--old-ids', default='', help='their ids')
  parser.add_argument('--out', required=True, help='the grown plan')
  _add_ray(parser)


def _grow(args) -> int:
  start, more = time.time(), holdings.read(args.old, args.old_ids)
  planning.grow(args.plan, args.out, more, by_ray=args.ray)
  print(f'{args.out}: {len(more)} more after {time.time() - start:.1f} s')
  return 0


COMMANDS: dict[str, tuple[Callable, Callable[[argparse.Namespace], int]]] = {
  'sample': (_add_sample, _sample),
  'fit': (_add_fit, _fit),
  'forecast': (_add_forecast, _forecast),
  'plan': (_add_plan, _plan),
  'grow': (_add_grow, _grow),
}
