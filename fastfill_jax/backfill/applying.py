"""The command 'apply'."""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import numpy as np

from fastfill_jax.backfill import census, embedders, options, pace, worker
from fastfill_jax.forecast import fitting

# sysexits.h EX_TEMPFAIL: stopped before the end, start again to continue.
EXIT_STOPPED = 75
_SAY_EVERY = 10.0


def add_arguments(parser):
  options.add_store(parser)
  options.add_plan(parser)
  source = parser.add_mutually_exclusive_group()
  source.add_argument(
    '--embedder',
    metavar='MODULE:NAME',
    help='a function ids -> vectors, or a class that is one',
  )
  source.add_argument(
    '--vectors', metavar='DIR', help='id/ and vector/, embedded elsewhere'
  )
  parser.add_argument(
    '--aligner',
    metavar='DIR',
    help='a fit, as WORKDIR/fits/ridge/final, or MODULE:NAME, a function '
    'old -> (aligned, score): for what the plan does not know',
  )
  parser.add_argument(
    '--until', help="30%%, 5000, $50, 6h or 'quality 0.95'; else to the end"
  )
  parser.add_argument('--metric', help="the forecast's, for --until quality")
  parser.add_argument('--batch', type=int, default=1000, help='items a write')
  parser.add_argument('--threads', type=int, default=4, help='that embed')
  parser.add_argument('--call', type=int, help='items a call of the embedder')
  parser.add_argument('--price', type=float, help='dollars per 1,000 items')
  parser.add_argument('--items', help='at most, as 10000/min')
  parser.add_argument('--calls', help='at most, as 60/min')
  parser.add_argument('--retries', type=int, default=8)
  parser.add_argument(
    '--retry-failed', action='store_true', help='tries what failed again'
  )
  parser.add_argument('--min-cosine', type=float, default=0.0)
  parser.add_argument('--catch-up', type=float, default=300.0, help='seconds')
  parser.add_argument('--adopt', action='append', default=[], metavar='TAG')
  parser.add_argument('--leave', action='append', default=[], metavar='TAG')


def load_aligner(given: str) -> Callable:
  """A function old [item, embedding] -> (aligned, score [item]).

  Args:
    given: A folder that `forecast.fitting` saved, whose score is its
      log-variance, or 'package.module:function'.
  """
  if not pathlib.Path(given).is_dir():
    return embedders.load(given)
  fitted = fitting.load(pathlib.Path(given))

  def align(old):
    aligned, log_variance = fitted.align(old)
    return aligned, (
      np.zeros(len(old)) if log_variance is None else log_variance
    )

  return align


def run(args) -> int:
  """Writes aligned embeddings, then new ones in the plan's order."""
  for name in ('batch', 'threads', 'call'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise ValueError(f'--{name}={getattr(args, name)} is not positive.')
  plan, journal = options.read_plan(args)
  metric = args.metric
  until = pace.parse_until(args.until, plan.count, plan.forecast, metric)
  stop = threading.Event()
  embedder = _embedder(args, plan, stop)
  if until.dollars is not None and not embedder.item_price:
    raise ValueError('--until=$N needs a --price, or an embedder with one.')
  aligner = load_aligner(args.aligner) if args.aligner else None
  with options.opened(args) as store:
    there = store.describe()
    if there.new_dim != plan.new_dim and not args.dry_run:
      raise ValueError(
        f'The new field is {there.new_dim} wide, the plan {plan.new_dim}: '
        'prepare the store first.'
      )
    if args.dry_run:
      return _dry_run(args, store, plan, journal, embedder, until)
    if args.retry_failed:
      journal.append('retry')
    backfill = worker.Worker(
      store,
      plan,
      embedder,
      journal,
      aligner=aligner,
      until=until,
      adopted=args.adopt,
      left=args.leave,
      batch=args.batch,
      threads=args.threads,
      min_cosine=args.min_cosine,
      catch_up=args.catch_up,
      stop=stop,
      report=_Reporter(journal),
    )
    with _signals(stop):
      reason = backfill.run()
  result = {
    'reason': reason,
    'written': backfill.written,
    'left_to_others': backfill.lost,
    'failed': len(journal.quarantine),
    'cost': journal.cost,
  }
  text = (
    f'{reason}: {backfill.written:,} written, {backfill.lost:,} left to '
    f'others, {len(journal.quarantine):,} failed, ${journal.cost:,.2f} in all'
  )
  options.show(args, result, [text])
  return {'stopped': EXIT_STOPPED, 'waiting': 1}.get(reason, 0)


def _embedder(args, plan, stop):
  if args.embedder:
    function = embedders.load(args.embedder)
  elif args.vectors:
    function = embedders.Vectors(args.vectors)
  elif args.dry_run:
    function = _no_embedder
  else:
    raise ValueError('--embedder=MODULE:NAME or --vectors=DIR is needed.')
  return embedders.Embedder(
    function,
    plan.new_dim,
    price=args.price,
    batch_size=args.call,
    items_per_second=args.items and pace.parse_rate(args.items),
    calls_per_second=args.calls and pace.parse_rate(args.calls),
    retries=args.retries,
    stop=stop,
  )


def _no_embedder(ids):
  raise ValueError('A dry run embeds nothing.')


def _dry_run(args, store, plan, journal, embedder, until):
  found = census.Census(store, plan, args.adopt)
  found.refuse_strange(plan, (*args.adopt, *args.leave))
  states = found.states
  fill = int(((states == census.UNTAGGED) | (states == census.ADOPTED)).sum())
  left = int((states != census.GONE).sum() - (states == census.NEW).sum())
  new = found.counts.get(plan.new_space, 0)
  if until.items is not None:
    left = max(0, min(left, until.items - new))
  if until.dollars is not None:
    affordable = (until.dollars - journal.cost) / embedder.item_price
    left = max(0, min(left, int(affordable)))
  seconds = left / pace.parse_rate(args.items) if args.items else None
  result = {
    'counts': {tag or 'untagged': n for tag, n in found.counts.items()},
    'align': fill,
    'embed': left,
    'cost': left * embedder.item_price if embedder.item_price else None,
    'seconds': seconds,
    'newcomers': len(found.newcomers.ids),
  }
  lines = [
    *(f'{n:,} items tagged {tag}' for tag, n in result['counts'].items()),
    f'{fill:,} aligned embeddings to write, {left:,} items to embed, '
    f'{result["newcomers"]:,} items that the plan does not know',
    ('no --price' if result['cost'] is None else f'${result["cost"]:,.2f}')
    + ('' if seconds is None else f', {seconds / 3600:.1f} h at --items'),
  ]
  if plan.forecast is not None:
    metric = args.metric or plan.forecast.metrics[0]
    share = (new + left) / max(1, found.total)
    value, low, high = plan.forecast.at(metric, share)
    overtakes = plan.forecast.overtakes(metric)
    result['forecast'] = {
      'metric': metric,
      'share': share,
      'value': value,
      'low': low,
      'high': high,
      'overtakes_at': overtakes,
    }
    lines.append(
      f'{metric} {value:.3f} ({low:.3f} to {high:.3f}) forecast at '
      f'{100 * share:.0f}%; better than the old model '
      + ('never' if overtakes is None else f'from {100 * overtakes:.0f}% on')
    )
  options.show(args, result, lines)
  return 0


class _Reporter:
  """A line of progress now and then."""

  def __init__(self, journal):
    self._journal, self._start = journal, time.monotonic()
    self._said = self._start

  def __call__(self, backfill):
    now = time.monotonic()
    if now - self._said < _SAY_EVERY:
      return
    self._said = now
    rate = backfill.written / (now - self._start)
    options.say(
      f'{backfill.new:,} new, {rate:,.0f} items/s, '
      f'${self._journal.cost:,.2f}, {len(self._journal.quarantine):,} failed'
    )


@contextlib.contextmanager
def _signals(stop):
  """The first SIGTERM or SIGINT ends after the batches in flight."""
  numbers = (signal.SIGTERM, signal.SIGINT)

  def handle(number, frame):
    del frame
    options.say('stopping after the batches in flight')
    stop.set()
    # Who insists is obeyed at once.
    signal.signal(number, before[number])

  before = {number: signal.getsignal(number) for number in numbers}
  for number in numbers:
    signal.signal(number, handle)
  try:
    yield
  finally:
    for number in numbers:
      signal.signal(number, before[number])
