#!/usr/bin/env bash
# Runs the pipeline on Cloud TPU VMs, one host or a pod slice.
#
#   launch/tpu_vm.sh [--dry-run] COMMAND [ARGS]
#
#   create        asks for the TPU
#   state         prints its state; ABSENT where there is none
#   setup         puts HEAD of this checkout on every host and installs it
#   run ARGS      starts main on every host and follows it; ARGS go to main
#   logs          follows again after a broken connection; ends as the run ends
#   stop          SIGTERM to every host: main saves a checkpoint and exits
#   copy [PATH]   copies the workdir, or PATH below it, to RESULTS
#   delete        gives the TPU back
#   spot ARGS     create, setup and run on spot capacity; whenever the TPU is
#                 taken away, makes it again and continues from the checkpoint
#
# NAME              the TPU's name                                    (required)
# ZONE              such as us-central2-b                             (required)
# ACCELERATOR_TYPE  such as v6e-8                  (required by create and spot)
# RUNTIME_VERSION   the VM's image; default: the one for the TPU's generation
# PROJECT           Google Cloud project; default: gcloud's own
# QUEUED            1: a queued resource, which waits for capacity (default);
#                   0: a TPU VM at once or an error
# SPOT              1: capacity that can be taken away; default: 0
# CREATE_FLAGS      more flags for create, separated by spaces, for example
#                   "--network=N --service-account=S --valid-until-duration=6h"
# SSH_FLAGS         more flags for ssh and scp, such as --internal-ip
# WORKDIR           results and checkpoints, a path on the hosts that all of
#                   them share and that outlives them (required by run and copy)
# BUCKET, MOUNT     setup mounts gs://BUCKET at MOUNT; default: no bucket,
#                   /mnt/fastfill. A bucket with hierarchical namespace renames
#                   checkpoints in one step
# SETUP_COMMAND     setup runs this on every host, for example an NFS mount
# RESULTS           where copy writes; default: results/NAME
# POLL              seconds between looks at the TPU's state; default: 60
# MAX_FAILURES      spot gives up after so many failures in a row; default: 3
#
# Several hosts: first `ssh-add ~/.ssh/google_compute_engine`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

CHECKOUT=fastfill_jax # in the home directory of every host
QUEUED=${QUEUED:-1}
SPOT=${SPOT:-0}
MOUNT=${MOUNT:-/mnt/fastfill}
POLL=${POLL:-60}
MAX_FAILURES=${MAX_FAILURES:-3}

tpus() { # tpus GROUP COMMAND NAME ...
  local group=$1 command=$2
  shift 2
  call gcloud compute tpus "$group" "$command" "$@" "--zone=$ZONE" \
    ${PROJECT:+"--project=$PROJECT"}
}

runtime_version() {
  [[ -z ${RUNTIME_VERSION:-} ]] || { echo "$RUNTIME_VERSION" && return; }
  case $ACCELERATOR_TYPE in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) die "no image is known for $ACCELERATOR_TYPE; set RUNTIME_VERSION." ;;
  esac
}

create() {
  need ACCELERATOR_TYPE 'such as v6e-8'
  local version flags=()
  version=$(runtime_version)
  ((!SPOT)) || flags=(--spot)
  # shellcheck disable=SC2206  # several flags in one variable
  flags+=("--accelerator-type=$ACCELERATOR_TYPE" ${CREATE_FLAGS:-})
  if ((QUEUED)); then
    tpus queued-resources create "$NAME" "--node-id=$NAME" \
      "--runtime-version=$version" "${flags[@]}"
  else
    tpus tpu-vm create "$NAME" "--version=$version" "${flags[@]}"
  fi
}

delete() {
  if ((QUEUED)); then
    # --force: the nodes too.
    tpus queued-resources delete "$NAME" --force --quiet
  else
    tpus tpu-vm delete "$NAME" --quiet
  fi
}

# describe GROUP FIELD: a state, ABSENT, or UNKNOWN if gcloud cannot tell.
describe() {
  local errors
  errors=$(mktemp)
  if ! tpus "$1" describe "$NAME" "--format=value($2)" 2>"$errors"; then
    if grep -q NOT_FOUND "$errors"; then
      echo ABSENT
    else
      cat "$errors" >&2
      echo UNKNOWN
    fi
  fi
  rm "$errors"
}

state() {
  local queued=ACTIVE
  ((!QUEUED)) || queued=$(describe queued-resources state.state)
  if [[ $queued != ACTIVE ]]; then
    printf '%s\n' "$queued"
    # A dry run has the command here and prints the other one too.
    [[ -n $DRY_RUN ]] || return 0
  fi
  describe tpu-vm state
}

on_workers() { # on_workers COMMAND: on every host, in its shell
  # shellcheck disable=SC2086  # several flags in one variable
  tpus tpu-vm ssh "$NAME" --worker=all ${SSH_FLAGS:-} "--command=$1"
}

worker() { # worker VERB ARGS: worker.sh on every host, in the checkout
  on_workers "cd $CHECKOUT && $(quoted launch/worker.sh "$@")"
}

setup() {
  local bundle=${TMPDIR:-/tmp}/$NAME.bundle
  call git -C "$ROOT" bundle create --quiet "$bundle" HEAD
  # shellcheck disable=SC2086  # several flags in one variable
  tpus tpu-vm scp "$bundle" "$NAME:$CHECKOUT.bundle" --worker=all \
    ${SSH_FLAGS:-}
  on_workers "git init --quiet $CHECKOUT && cd $CHECKOUT && git fetch --quiet \
../$CHECKOUT.bundle HEAD && git checkout --quiet --force --detach FETCH_HEAD"
  set -- launch/worker.sh setup
  [[ -z ${BUCKET:-} ]] || set -- "BUCKET=$BUCKET" "MOUNT=$MOUNT" "$@"
  [[ -z ${SETUP_COMMAND:-} ]] || set -- "SETUP_COMMAND=$SETUP_COMMAND" "$@"
  on_workers "cd $CHECKOUT && $(quoted env "$@")"
}

run() {
  need WORKDIR 'a path that all hosts share and that outlives them'
  has_config "$@" || die 'give --config=configs/X.py.'
  worker start --distributed "--workdir=$WORKDIR" "$@"
  logs
}

logs() { worker follow; }

stop() { worker stop; }

copy() {
  need WORKDIR 'as it was for run'
  local path=$WORKDIR${1:+/$1} results=${RESULTS:-results/$NAME}
  call mkdir -p "$results"
  if [[ -n ${BUCKET:-} && $path/ == "$MOUNT"/* ]]; then
    # Straight from the bucket: it works when the TPU is gone, too.
    call gcloud storage cp --recursive "gs://$BUCKET${path#"$MOUNT"}" \
      "$results" ${PROJECT:+"--project=$PROJECT"}
  else
    # shellcheck disable=SC2086  # several flags in one variable
    tpus tpu-vm scp "$NAME:$path" "$results" --worker=0 --recurse \
      ${SSH_FLAGS:-}
  fi
}

# Waits until the TPU is there, making it again where it is not.
ensure_ready() {
  local now failures=0
  while ((failures < MAX_FAILURES)); do
    now=$(state)
    say "$NAME is $now"
    case $now in
      READY) return ;;
      ABSENT) create || failures=$((failures + 1)) ;;
      PREEMPTED | SUSPENDED | STOPPED | TERMINATED)
        delete && create || failures=$((failures + 1)) ;;
      FAILED) # the request itself, or it waited longer than it may
        failures=$((failures + 1))
        delete && create || true ;;
      UNKNOWN) failures=$((failures + 1)) ;;
      *) failures=0 ;;
    esac
    sleep "$POLL"
  done
  die "$failures failures in a row; giving up."
}

spot() {
  need ACCELERATOR_TYPE 'such as v6e-8'
  need WORKDIR 'a path that all hosts share and that outlives them'
  has_config "$@" || die 'give --config=configs/X.py.'
  export QUEUED=1 SPOT=1
  if [[ -n $DRY_RUN ]]; then
    state && create && setup && run "$@"
    echo '# PREEMPTED, SUSPENDED or FAILED: these two, then again from setup'
    delete && create
    return
  fi
  local failures=0 code
  while ((failures < MAX_FAILURES)); do
    ensure_ready
    code=0
    # Scripts of their own: inside a condition bash ignores errexit.
    "${BASH_SOURCE[0]}" setup && "${BASH_SOURCE[0]}" run "$@" || code=$?
    case $code in
      0) say 'finished; the TPU is still there: copy, then delete' && return ;;
      75) failures=0 ;;
      *) [[ $(state) != READY ]] || failures=$((failures + 1)) ;;
    esac
    say "stopped with code $code"
    # What is left on hosts that did not notice.
    stop || true
    sleep "$POLL"
  done
  die "the run failed $failures times in a row; the TPU is still there."
}

if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
case ${1:-} in
  create | state | setup | run | logs | stop | copy | delete | spot)
    need NAME "the TPU's name"
    need ZONE 'such as us-central2-b'
    "$@" ;;
  *) die "unknown command '${1:-}'; known: create, state, setup, run, logs," \
    'stop, copy, delete, spot.' ;;
esac
