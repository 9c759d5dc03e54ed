"""python -m fastfill_jax.forecast COMMAND ..."""

import argparse
import sys

from fastfill_jax.forecast import commands


def main(arguments: list[str] | None = None) -> int:
  """Runs a command; what is wrong with its input is one line, not a trace."""
  parser = argparse.ArgumentParser(
    prog='fastfill_jax.forecast',
    description=commands.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parsers = parser.add_subparsers(dest='command', required=True)
  for name, (add_arguments, _) in commands.COMMANDS.items():
    add_arguments(parsers.add_parser(name))
  args = parser.parse_args(arguments)
  try:
    return commands.COMMANDS[args.command][1](args)
  except (ValueError, OSError) as error:
    print(f'{args.command}: {error}', file=sys.stderr)
    return 2


if __name__ == '__main__':
  sys.exit(main())
