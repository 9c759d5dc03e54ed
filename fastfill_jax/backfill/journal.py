"""What a store cannot tell: costs, times, and items that failed.

A file of JSON lines, each on the disk before the next batch. The tags in the
store say what is done; without this file a backfill goes on all the same, with
its costs forgotten and its quarantine empty.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import time


class Journal:
  """Reads what is there and appends to it.

  Attributes:
    cost: Dollars paid so far.
    embedded: Items embedded so far.
    seconds: Spent on batches so far.
    quarantine: {id: why it could not be embedded}.
    filled: Whether every item of the plan once had its aligned embedding.
    events: All lines, in order.
  """

  def __init__(self, path):
    self._path = pathlib.Path(path)
    self.cost, self.embedded, self.seconds = 0.0, 0, 0.0
    self.quarantine, self.filled, self.events = {}, False, []
    if self._path.exists():
      for line in self._path.read_bytes().split(b'\n'):
        try:
          event = json.loads(line)
        except ValueError:
          continue  # the torn end of a call that was killed
        if isinstance(event, dict):
          self._count(event)

  def _count(self, event):
    self.events.append(event)
    if event['event'] == 'batch':
      self.cost += event['cost']
      self.embedded += event['embedded']
      self.seconds += event['seconds']
      self.quarantine.update((i, reason) for i, reason in event['failed'])
    elif event['event'] == 'retry':
      self.quarantine.clear()
    elif event['event'] == 'filled':
      self.filled = True

  def check(self, digest: str):
    """Refuses a journal of another plan.

    Raises:
      ValueError: If it is one.
    """
    for event in self.events:
      if event['event'] == 'start' and event['plan'] != digest:
        raise ValueError(
          f'{self._path} belongs to plan {event["plan"]}, this is {digest}: '
          'name another --journal, or move it away.'
        )

  @contextlib.contextmanager
  def lock(self):
    """Keeps a second worker from paying for the same items.

    Raises:
      ValueError: If there is one.
    """
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with open(self._path.with_name(f'{self._path.name}.lock'), 'w') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(f'Another backfill writes {self._path}.') from None
      yield

  def append(self, event: str, **values):
    """Adds a line and waits until it is on the disk."""
    record = {'event': event, 'time': round(time.time(), 3), **values}
    with open(self._path, 'ab') as file:
      torn = file.tell() and not self._ends_a_line()
      line = json.dumps(record, ensure_ascii=False).encode() + b'\n'
      file.write(b'\n' * bool(torn) + line)
      file.flush()
      os.fsync(file.fileno())
    self._count(record)

  def _ends_a_line(self):
    with open(self._path, 'rb') as file:
      file.seek(-1, os.SEEK_END)
      return file.read(1) == b'\n'
