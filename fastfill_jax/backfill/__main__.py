"""What a backfill will buy, and the backfill of a store that is serving.

python -m fastfill_jax.backfill sample|fit|forecast|plan|grow ...
python -m fastfill_jax.backfill prepare --store=URL --plan=DIR
python -m fastfill_jax.backfill apply ... --embedder=package.module:function
python -m fastfill_jax.backfill status|verify|cutover|rollback|cleanup ...
"""

import argparse
import sys

from fastfill_jax import stores
from fastfill_jax.backfill import applying, commands, embedders
from fastfill_jax.forecast import commands as forecast_commands

# {name: (adds its arguments to a parser, runs and returns the exit code)}.
COMMANDS = {
  **forecast_commands.COMMANDS,
  **commands.COMMANDS,
  'apply': (applying.add_arguments, applying.run),
}


def main(argv=None) -> int:
  """Runs a command.

  Returns:
    0: done; 1: failed, or something is left that waits; 2: wrong arguments;
    75: stopped by a signal, the same call goes on.
  """
  parser = argparse.ArgumentParser(
    prog='python -m fastfill_jax.backfill',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  subparsers = parser.add_subparsers(required=True, metavar='COMMAND')
  for name, (add_arguments, run) in sorted(COMMANDS.items()):
    text = (run.__doc__ or '').partition('\n')[0]
    subparser = subparsers.add_parser(
      name, help=text, description=text, allow_abbrev=False
    )
    add_arguments(subparser)
    subparser.set_defaults(run=run)
  args = parser.parse_args(argv)
  try:
    return args.run(args)
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {stores.masked(str(error))}', file=sys.stderr)
    return 2
  except embedders.Broken as error:
    print(f'error: {stores.masked(str(error))}', file=sys.stderr)
    return 1


if __name__ == '__main__':
  sys.exit(main())
