"""Runs a config: python -m fastfill_jax.main --config=configs/digits.py."""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from fastfill_jax import parallel, pipeline

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The run; PATH.py:debug for its form of seconds.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Results; runs/NAME of the config by default.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes of a detected cluster.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'HOST:PORT of process 0, without a cluster.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Of the run, with --coordinator_address.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Of this process, from 0, with --coordinator_address.'
)
_JOIN_TIMEOUT = flags.DEFINE_integer(
  'join_timeout', 300, 'Seconds to wait for the other processes.'
)
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> int:
  """Joins the other processes, and runs."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments {argv[1:]}; flags start with --.')
  # Orbax tells every file it touches.
  logging.get_absl_handler().addFilter(
    lambda record: 'orbax' not in record.pathname or record.levelno > 20
  )
  config = _CONFIG.value
  workdir = pathlib.Path(_WORKDIR.value or f'runs/{config.name}').absolute()
  try:
    if _DISTRIBUTED.value or _COORDINATOR.value or _NUM_PROCESSES.value:
      parallel.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _JOIN_TIMEOUT.value,
      )
    logging.info('%s on %s', config.name, parallel.describe())
    pipeline.claim(config, workdir)
    parallel.keep_programs(workdir / 'programs')
    pipeline.run(config, workdir, parallel.Preemption())
  except parallel.Preempted as stop:
    logging.warning('%s Start again to continue.', stop)
    return parallel.EXIT_PREEMPTED
  except (ValueError, OSError, FloatingPointError) as error:
    logging.error('%s', error)
    if isinstance(error, OSError):
      logging.error('The workdir is %s. Start again to continue.', workdir)
    logging.debug('Where it came from:', exc_info=True)
    return 1
  return 0


def _parse(argv: list[str]) -> list[str]:
  try:
    return app.parse_flags_with_usage(argv)
  except AttributeError as error:  # ml_collections', for a key it lacks.
    reason = str(error).strip('\'"').replace('\\n', ' ').replace('\n', ' ')
    sys.exit(f'FATAL Flags parsing error: no key {reason}')


if __name__ == '__main__':
  app.run(lambda argv: sys.exit(main(argv)), flags_parser=_parse)
