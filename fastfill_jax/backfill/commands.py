"""The commands beside 'apply': short ones."""

import pathlib
import sys

import numpy as np
import rich.console
import rich.table

from fastfill_jax.backfill import (
  census,
  embedders,
  options,
  page,
  status,
  verify,
)
from fastfill_jax.storage import cluster
from fastfill_jax.stores import shards

_ROWS = 4_096  # Embedded by one task of a cluster.


def _add_store(parser):
  options.add_store(parser)


def _add_store_and_plan(parser):
  options.add_store(parser)
  options.add_plan(parser)


def prepare(args) -> int:
  """Adds the new field and its tag to the store."""
  plan, _ = options.read_plan(args)
  with options.opened(args) as store:
    there = store.describe()
    if there.old_dim not in (None, plan.old_dim):
      raise ValueError(
        f'{args.field} is {there.old_dim} wide, the plan was made for '
        f'{plan.old_dim}.'
      )
    done = store.prepare(plan.new_dim, plan.distance, args.dry_run)
    lines = done or ['nothing to do']
    result = {'done': done, 'warnings': list(there.warnings)}
    options.show(args, result, [*lines, *there.warnings])
  return 0


def _add_status(parser):
  _add_store_and_plan(parser)
  parser.add_argument('--metric', help="the forecast's")
  parser.add_argument(
    '--probe', metavar='DIR', help='query/, label/ and gallery_label/'
  )
  parser.add_argument('--html', metavar='FILE', help='a page to write')


def show_status(args) -> int:
  """Share, rate, cost, tags, forecast and a probe of the live store."""
  plan, journal = options.read_plan(args)
  with options.opened(args) as store:
    found = status.collect(store, plan, journal, args.metric, args.probe)
  if args.html and not args.dry_run:
    curve = None
    if plan.forecast is not None:
      curve = plan.forecast.curve(found['forecast']['metric'])
    pathlib.Path(args.html).write_text(page.document(found, curve))
  if args.json:
    options.show(args, found, ())
    return 0
  table = rich.table.Table(show_header=False, box=None)
  for row in page.rows(found):
    table.add_row(*map(rich.markup.escape, row))
  rich.console.Console().print(table)
  return 0


def _add_verify(parser):
  _add_store_and_plan(parser)
  parser.add_argument('--sample', type=int, default=10_000, help='items read')
  parser.add_argument(
    '--embedder', metavar='MODULE:NAME', help='embeds some new items again'
  )


def run_verify(args) -> int:
  """Compares the store with the plan, and its search with an exact one."""
  plan, _ = options.read_plan(args)
  embedder = None
  if args.embedder:
    function = embedders.load(args.embedder)
    embedder = embedders.Embedder(function, plan.new_dim)
  if args.dry_run:
    text = f'would read {args.sample:,} items and search for some'
    options.show(args, {'sample': args.sample}, [text])
    return 0
  with options.opened(args) as store:
    found = verify.check(store, plan, args.sample, embedder)
  good = all(line['good'] for line in found)
  options.show(
    args,
    {'good': good, 'checks': found},
    [
      f'{"good" if line["good"] else "BAD":4}  {line["check"]}: '
      f'{line["detail"]}'
      for line in found
    ],
  )
  return 0 if good else 1


def _add_cut_over(parser):
  _add_store_and_plan(parser)
  parser.add_argument('--metric', help="the forecast's")
  parser.add_argument(
    '--check', action='store_true', help='only says whether it is time'
  )
  parser.add_argument('--force', action='store_true', help='whatever it says')


def cut_over(args) -> int:
  """Serves the new field under the old one's name."""
  plan, journal = options.read_plan(args)
  with options.opened(args) as store:
    found = status.collect(store, plan, journal, args.metric)
    reasons = list(_against(found))
    ready = not reasons or args.force
    done = ready and not (args.check or args.dry_run)
    if done:
      store.cut_over()
  verdict = ['cut over' if done else 'ready' if ready else 'not now']
  options.show(
    args,
    {'ready': ready, 'done': done, 'against': reasons},
    [*verdict, *(f'  {reason}' for reason in reasons)],
  )
  return 0 if ready else 1


def _against(found):
  """Why not to cut over."""
  if found['missing']:
    yield f'{found["missing"]:,} items could not be found in the new space'
  forecast = found['forecast']
  if not forecast or forecast['old'] is None:
    return
  if forecast['value'] < forecast['old']:
    share = forecast['overtakes_at']
    when = 'never' if share is None else f'at {100 * share:.0f}%'
    yield (
      f'{forecast["metric"]} is forecast to be {forecast["value"]:.3f} now, '
      f'{forecast["old"]:.3f} with the old model, to be overtaken {when}'
    )


def roll_back(args) -> int:
  """Serves the old field again."""
  with options.opened(args) as store:
    serving = store.describe().serving
    if not args.dry_run:
      store.roll_back()
  done = serving == 'new' and not args.dry_run
  text = {'old': 'the old field is served already'}.get(
    serving, 'rolled back' if done else 'would serve the old field'
  )
  options.show(args, {'done': done, 'serving_before': serving}, [text])
  return 0


def _add_clean_up(parser):
  options.add_store(parser)
  parser.add_argument('--yes', action='store_true', help='without asking')


def clean_up(args) -> int:
  """Drops the field that is not served, and the tags."""
  with options.opened(args) as store:
    serving, counts = store.describe().serving, store.counts()
    unused = 'old' if serving == 'new' else 'new'
    tags = ', '.join(f'{n:,} {tag}' for tag, n in counts.items())
    text = f'the {unused} field and the tags of {args.table} ({tags})'
    done = not args.dry_run and (args.yes or _asked(text, args.table))
    if done:
      store.clean_up()
  verb = 'dropped' if done else 'would drop' if args.dry_run else 'kept'
  options.show(args, {'done': done, 'drops': unused}, [f'{verb} {text}'])
  return 0 if done or args.dry_run else 1


def _asked(text, table):
  if not sys.stdin.isatty():
    raise ValueError(f'This drops {text} for good: say --yes.')
  answer = input(f'This drops {text} for good. Type {table} to go on: ')
  return answer == table


def _add_export(parser):
  _add_store_and_plan(parser)
  parser.add_argument('--share', type=float, default=1.0, help='up to 1')
  parser.add_argument('--out', required=True, metavar='DIR', help='new')


def export_ids(args) -> int:
  """Writes which ids to embed, in order, for people who embed elsewhere."""
  if not 0 < args.share <= 1:
    raise ValueError(f'--share={args.share} is not in (0, 1].')
  plan, journal = options.read_plan(args)
  if pathlib.Path(args.out, 'id').exists():
    raise ValueError(f'{args.out}/id is there: name a new folder.')
  with options.opened(args) as store:
    found = census.Census(store, plan)
  new = found.counts.get(plan.new_space, 0)
  wanted = max(0, round(args.share * found.total) - new)
  open_states = [census.ALIGNED, census.UNTAGGED]
  order = plan.order[np.isin(found.states[plan.order], open_states)]
  ids = plan.ids[order]
  ids = ids[~np.isin(ids, list(journal.quarantine))][:wanted]
  if len(ids) and not args.dry_run:
    shards.write(f'{args.out}/id', ids)
  options.show(args, {'ids': len(ids), 'out': args.out}, [f'{len(ids):,} ids'])
  return 0


def _add_embed(parser):
  options.add_plan(parser)
  parser.add_argument('--ids', required=True, metavar='DIR', help='export-ids')
  parser.add_argument(
    '--embedder', required=True, metavar='MODULE:NAME', help='as for apply'
  )
  parser.add_argument('--batch', type=int, help='ids a call')
  parser.add_argument('--ray', action='store_true', help='embed on a cluster')
  parser.add_argument('--json', action='store_true')


def embed(args) -> int:
  """Embeds what export-ids wrote, for `apply --vectors`; goes on where it was.

  An item that fails gets a vector of zeros, which `apply` puts aside.
  """
  dim = options.read_plan(args)[0].new_dim
  folder, name, batch = pathlib.Path(args.ids), args.embedder, args.batch
  embedders.load(name)  # A wrong one fails here, not in a cluster.

  def one(shard):
    ids = shards.ShardedArray(folder / 'id')
    ids = ids[shard * _ROWS : (shard + 1) * _ROWS]
    found = embedders.Embedder(embedders.load(name), dim, batch_size=batch)(ids)
    vectors = np.zeros((len(ids), dim), np.float32)
    rows = {x: row for row, x in enumerate(ids.tolist())}
    for x, vector in zip(found.ids, found.vectors, strict=True):
      vectors[rows[x]] = vector
    shards.write_shard(folder / 'vector', shard, vectors)

  count = len(shards.ShardedArray(folder / 'id'))
  left = [
    x
    for x in range(-(-count // _ROWS))
    if not shards.has_shard(folder / 'vector', x)
  ]
  cluster.over(one, left, args.ray)
  vectors = shards.ShardedArray(folder / 'vector')
  failed = sum(
    np.count_nonzero(~vectors[start : start + _ROWS].any(axis=1))
    for start in range(0, count, _ROWS)
  )
  lines = [f'{count:,} ids, of which {failed:,} failed']
  options.show(args, {'ids': count, 'failed': int(failed)}, lines)
  return 1 if failed else 0


COMMANDS = {
  'prepare': (_add_store_and_plan, prepare),
  'status': (_add_status, show_status),
  'verify': (_add_verify, run_verify),
  'cutover': (_add_cut_over, cut_over),
  'rollback': (_add_store, roll_back),
  'cleanup': (_add_clean_up, clean_up),
  'export-ids': (_add_export, export_ids),
  'embed': (_add_embed, embed),
}
