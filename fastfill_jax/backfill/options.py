"""The flags that commands share, and what they open."""

import contextlib
import json
import pathlib
import sys

from fastfill_jax import stores
from fastfill_jax.backfill import journal, plan


def add_store(parser, dry_run: bool = True):
  """Adds --store and the names in it, --json and perhaps --dry-run."""
  parser.add_argument(
    '--store',
    required=True,
    metavar='URL',
    help='arrays:DIR, postgresql://HOST/NAME, qdrant:URL, lancedb:DIR or '
    'env:VARIABLE that holds one',
  )
  names = stores.Names()
  parser.add_argument('--table', default=names.table)
  parser.add_argument('--id', default=names.id, help='the key')
  parser.add_argument(
    '--field', default=names.field, help='the embeddings that are searched'
  )
  parser.add_argument(
    '--revision', help="a field that changes with an item's content"
  )
  parser.add_argument('--json', action='store_true', help='for programs')
  if dry_run:
    parser.add_argument(
      '--dry-run', action='store_true', help='says what it would do'
    )


def add_plan(parser, required: bool = True):
  """Adds --plan and --journal."""
  parser.add_argument('--plan', required=required, metavar='DIR')
  parser.add_argument(
    '--journal', metavar='FILE', help='default: journal.jsonl of the plan'
  )


@contextlib.contextmanager
def opened(args):
  """The store that the flags name."""
  names = stores.Names(args.table, args.id, args.field, args.revision)
  with contextlib.closing(stores.open_store(args.store, names)) as store:
    yield store


def read_plan(args) -> tuple[plan.Plan, journal.Journal]:
  """The plan, and its journal, which must not be another plan's."""
  planned = plan.Plan(args.plan)
  path = args.journal or pathlib.Path(args.plan) / 'journal.jsonl'
  kept = journal.Journal(path)
  kept.check(planned.digest)
  return planned, kept


def show(args, result: dict, lines):
  """Prints the one for programs or the other for people."""
  if args.json:
    print(json.dumps(result, ensure_ascii=False, default=str))
    return
  for line in lines:
    print(line)


def say(text: str):
  """Progress, which is not output."""
  print(text, file=sys.stderr, flush=True)
