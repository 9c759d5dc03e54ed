# shellcheck shell=bash
# Sourced by the other scripts: messages, dry runs, the virtual environment.
#
# PYTHON  interpreter to make the environment with; default: the first of
#         python3.13, python3.12, python3.11, python3 that is 3.11 to 3.13
# VENV    where the environment is; default: .venv at the repository root
# EXTRAS  extras of the package, e.g. EXTRAS=cuda; each script has its default

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# The arguments as one line that a shell reads back as the same arguments.
quoted() {
  local line
  line=$(printf '%q ' "$@")
  printf '%s\n' "${line% }"
}

# Runs a command; in a dry run prints it instead.
call() {
  if [[ -n $DRY_RUN ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# need NAME MEANING: stops unless the variable has a value.
need() { [[ -n ${!1:-} ]] || die "set $1: $2."; }

has_config() {
  local argument
  for argument in "$@"; do
    case $argument in --config | --config=*) return 0 ;; esac
  done
  return 1
}

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    2>/dev/null
}

find_python() {
  local python
  if [[ -n ${PYTHON:-} ]]; then
    supported "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13."
    printf '%s\n' "$PYTHON"
    return
  fi
  for python in python3.13 python3.12 python3.11 python3; do
    if supported "$python"; then
      printf '%s\n' "$python"
      return
    fi
  done
  die 'no Python 3.11, 3.12 or 3.13 on PATH; name one: PYTHON=/path/to/python.'
}

# set_up EXTRAS: makes the environment and installs the package into it, once,
# and again when the packages it asks for have changed.
set_up() {
  local extras=${1:-} python stamp wanted
  if [[ ! -x $VENV/bin/pip ]]; then
    python=$(find_python)
    say "making $VENV with $python"
    # pip is what venv writes last: without it the environment is half made.
    "$python" -m venv --clear "$VENV" ||
      die "$python cannot make $VENV (Debian, Ubuntu: apt install python3-venv)."
  fi
  stamp=$VENV/installed-${extras//,/-}
  wanted=$(cat "$ROOT/pyproject.toml" "$ROOT/requirements.txt" | cksum)
  if [[ ! -f $stamp || $(<"$stamp") != "$ROOT $wanted" ]]; then
    say "installing fastfill_jax${extras:+[$extras]}"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable "$ROOT${extras:+[$extras]}"
    printf '%s\n' "$ROOT $wanted" >"$stamp"
  fi
}
