"""A checkout of the launch scripts and a PATH of stand-ins, for their tests."""

import pathlib
import shlex
import shutil
import subprocess

REPOSITORY = pathlib.Path(__file__).parent.parent
# What the scripts use of the system; the PATH holds nothing else.
_TOOLS = shlex.split(
  'bash basename cat cksum cp dirname env grep head id kill mkdir mktemp rm '
  'sed setsid sleep tail tee touch'
)
# Writes its arguments down: fields end with \x1f, calls with a newline.
_RECORD = """#!/usr/bin/env bash
{ printf '%s\\x1f' "$(basename "$0")" "$@"; echo; } >>"$CALLS"
# next FILE: prints and removes the first line.
next() { head -n 1 "$1" && sed -i 1d "$1"; }
"""
_GCLOUD = """
case "$*" in
  *describe*)
    answer=$(next "$ANSWERS/states")
    case $answer in
      ABSENT) echo 'ERROR: NOT_FOUND: no such resource' >&2; exit 1 ;;
      UNKNOWN) echo 'ERROR: no network' >&2; exit 1 ;;
      *) echo 'WARNING: old' >&2; echo "$answer" ;;
    esac ;;
  *'worker.sh follow'*) exit "$(next "$ANSWERS/codes")" ;;
esac
"""
_SRUN = 'exit "$(next "$ANSWERS/codes")"\n'
# As much of Python as launch/setup.sh uses; OLD names one that is too old.
_PYTHON = """
case $1$2 in
  -c*) [[ ${0##*/} != "${OLD:-}" ]] ;;
  -mvenv)
    rm -rf "$4" && mkdir -p "$4/bin"
    cp "$0" "$4/bin/python" && cp "$0" "$4/bin/pip" ;;
esac
"""


def commands(*lines):
  """Shell lines -> their argument lists."""
  return [shlex.split(line) for line in lines]


class Machine:
  def __init__(self, root):
    self.home = root
    self.root = root / 'checkout'
    self.path = root / 'bin'
    self.answers = root / 'answers'
    for directory in (self.root, self.path, self.answers):
      directory.mkdir()
    for name in ('launch', '.ci'):
      shutil.copytree(REPOSITORY / name, self.root / name)
    for name in ('pyproject.toml', 'requirements.txt'):
      shutil.copy(REPOSITORY / name, self.root)
    for tool in _TOOLS:
      (self.path / tool).symlink_to(shutil.which(tool))
    self.stand_in('git', 'scontrol', 'sbatch')
    self.stand_in('gcloud', body=_GCLOUD)
    self.stand_in('srun', body=_SRUN)
    self.python = str(self.root / '.venv/bin/python')
    self.environment = {
      'PATH': str(self.path),
      'HOME': str(root),
      'TMPDIR': str(root),
      'CALLS': str(root / 'calls'),
      'ANSWERS': str(self.answers),
    }

  def stand_in(self, *names, body=''):
    for name in names:
      path = self.path / name
      path.write_text(_RECORD + body)
      path.chmod(0o755)

  def install_python(self, *names):
    self.stand_in(*names, body=_PYTHON)

  def answer(self, states='', codes=''):
    """What gcloud's describe prints and what the runs end with, in order."""
    (self.answers / 'states').write_text('\n'.join(states.split()))
    (self.answers / 'codes').write_text('\n'.join(codes.split()))

  def run(self, script, *arguments, **variables):
    """-> (exit code, stdout, stderr, the calls of the stand-ins)."""
    calls = self.home / 'calls'
    calls.write_text('')
    done = subprocess.run(
      [self.root / script, *arguments],
      cwd=self.root,
      env=self.environment | variables,
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )
    lines = calls.read_text().splitlines()
    calls = [line.split('\x1f')[:-1] for line in lines]
    return done.returncode, done.stdout, done.stderr, calls
