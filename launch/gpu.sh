#!/usr/bin/env bash
# Runs the pipeline on one host with one or more NVIDIA GPUs.
#
#   launch/gpu.sh [--dry-run] [--config=configs/X.py] [--workdir=DIR] ...
#   launch/gpu.sh [--dry-run] --benchmark --data_dir=DIR
#
# --benchmark measures the device: see benchmarks/accelerator.py.
# One process drives all GPUs. Several hosts without SLURM: start this on each
# with --coordinator_address=HOST:PORT --num_processes=N --process_id=I.
# Paths are relative to the repository root.
#
# GPUS             which GPUs, as in 0,1; default: all
# MEMORY_FRACTION  share of each GPU's memory taken at the start; default: JAX's
# EXTRAS           default: cuda
# PYTHON, VENV     see setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
[[ -n $DRY_RUN ]] || set_up "${EXTRAS:-cuda}"
if [[ ${1:-} == --benchmark ]]; then
  shift
  set -- benchmarks.accelerator "$@"
else
  has_config "$@" || set -- --config=configs/digits.py "$@"
  set -- fastfill_jax.main "$@"
fi
# Naming the platform makes a missing driver an error, not a run on the CPU.
set -- JAX_PLATFORMS=cuda,cpu "$VENV/bin/python" -m "$@"
[[ -z ${MEMORY_FRACTION:-} ]] ||
  set -- "XLA_PYTHON_CLIENT_MEM_FRACTION=$MEMORY_FRACTION" "$@"
[[ -z ${GPUS:-} ]] || set -- "CUDA_VISIBLE_DEVICES=$GPUS" "$@"
cd "$ROOT"
# exec, so that a SIGTERM reaches the run, which saves and exits with code 75.
[[ -n $DRY_RUN ]] || exec env "$@"
call env "$@"
