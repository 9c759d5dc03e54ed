"""A worker that may kill itself at a named point: the kill tests' process.

  python -m backfill_killed POINT COUNT COMMAND ...

POINT is 'before_write', 'after_write' or 'never'; at the COUNT-th write of new
embeddings the process ends by SIGKILL. Ids are noted in $ASKED as they are
embedded.
"""

import os
import signal
import sys

import backfill_cases as cases

from fastfill_jax import stores
from fastfill_jax.backfill import __main__ as backfill


def embedder(ids):
  with open(os.environ['ASKED'], 'a') as file:
    file.write(''.join(f'{i}\n' for i in ids.tolist()))
  return cases.new(ids)


def _arm(point, count):
  write, left = stores.Store.write, [count]

  def armed(self, ids, vectors, space, **options):
    left[0] -= space == cases.NEW
    now = left[0] == 0 and space == cases.NEW
    if now and point == 'before_write':
      os.kill(os.getpid(), signal.SIGKILL)
    written = write(self, ids, vectors, space, **options)
    if now and point == 'after_write':
      os.kill(os.getpid(), signal.SIGKILL)
    return written

  stores.Store.write = armed


if __name__ == '__main__':
  _arm(sys.argv[1], int(sys.argv[2]))
  sys.exit(backfill.main(sys.argv[3:]))
