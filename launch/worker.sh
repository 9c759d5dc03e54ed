#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on each host of the TPU.
#
#   launch/worker.sh setup         Python, the package, the bucket
#   launch/worker.sh start ARGS    starts main in the background
#   launch/worker.sh follow        prints its log; ends with its exit code
#   launch/worker.sh stop          SIGTERM, then waits: main saves and exits
#
# BUCKET, MOUNT  setup mounts gs://BUCKET at MOUNT; default: no bucket
# SETUP_COMMAND  setup runs this last; default: nothing
# GRACE          seconds that stop waits before it kills; default: 180
# EXTRAS         default: tpu
# PYTHON, VENV   see setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

LOG=$ROOT/runs/worker.log
PID=$ROOT/runs/worker.pid
CODE=$ROOT/runs/worker.code
KILLED=137

# The number alone could be another process by now: the host may have rebooted.
alive() {
  [[ -f $PID ]] && grep -qs fastfill_jax.main "/proc/$(<"$PID")/cmdline"
}

setup() {
  # TPU VMs run Ubuntu 22.04, whose Python is 3.10.
  if [[ -z ${PYTHON:-} ]] && ! (find_python) >/dev/null 2>&1; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON=$(python3 -m uv python find 3.12)
  fi
  set_up "${EXTRAS:-tpu}"
  [[ -z ${BUCKET:-} ]] || mount_bucket
  [[ -z ${SETUP_COMMAND:-} ]] || bash -c "$SETUP_COMMAND"
}

mount_bucket() {
  ! mountpoint -q "$MOUNT" || return 0
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc
    local packages=https://packages.cloud.google.com/apt
    curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install gcsfuse
  fi
  sudo mkdir -p "$MOUNT"
  sudo chown "$(id -u):$(id -g)" "$MOUNT"
  # Checkpoints are renamed into place: whole directories, which a bucket
  # without hierarchical namespace only allows up to this many files.
  gcsfuse --implicit-dirs --rename-dir-limit=10000 "$BUCKET" "$MOUNT"
}

start() {
  if alive; then
    say "already running as $(<"$PID")"
    return
  fi
  mkdir -p "$ROOT/runs"
  rm -f "$CODE" "$PID"
  cd "$ROOT"
  # A session of its own: it outlives the connection that started it.
  # shellcheck disable=SC2016  # expanded by the inner shell
  setsid bash -c '
    pid=$1 code=$2
    shift 2
    "$@" &
    echo $! >"$pid"
    wait $!
    echo $? >"$code"
  ' worker "$PID" "$CODE" "$VENV/bin/python" -m fastfill_jax.main "$@" \
    </dev/null >>"$LOG" 2>&1 &
  until [[ -s $PID ]]; do sleep 0.1; done
}

follow() {
  [[ -f $PID ]] || die 'nothing was started here.'
  tail -n 100 --pid="$(<"$PID")" -F "$LOG" 2>/dev/null
  # Killed together with what writes its code, it leaves none.
  for _ in {1..50}; do
    if [[ -s $CODE ]]; then exit "$(<"$CODE")"; fi
    sleep 0.1
  done
  exit "$KILLED"
}

stop() {
  alive || return 0
  kill -TERM "$(<"$PID")"
  local waited=0
  while alive && ((waited < ${GRACE:-180})); do
    sleep 1
    waited=$((waited + 1))
  done
  ! alive || kill -KILL "$(<"$PID")"
}

case ${1:-} in
  setup | start | follow | stop) "$@" ;;
  *) die "unknown command '${1:-}'; known: setup, start, follow, stop." ;;
esac
