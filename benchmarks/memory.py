"""Peak memory of a part of a process, on Linux."""

import pathlib
import re
import threading


class PeakMemory:
  """Samples the process's anonymous and file-backed memory, in MiB."""

  def __enter__(self):
    self._before = self._read()
    self.anonymous = self.files = 0.0
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._sample)
    self._thread.start()
    return self

  def __exit__(self, *error):
    self._stop.set()
    self._thread.join()

  def _sample(self):
    while not self._stop.wait(0.02):
      anonymous, files = self._read()
      self.anonymous = max(self.anonymous, anonymous - self._before[0])
      self.files = max(self.files, files)

  def _read(self):
    status = pathlib.Path('/proc/self/status').read_text()
    return [
      int(re.search(rf'{name}:\s*(\d+)', status)[1]) / 1024
      for name in ('RssAnon', 'RssFile')
    ]
