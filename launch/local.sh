#!/usr/bin/env bash
# Installs on a fresh machine and runs the pipeline; the default is the digits.
#
#   launch/local.sh [--config=configs/X.py] [--workdir=DIR] [--config.key=value]
#
# Paths are relative to the repository root.
# PYTHON, VENV, EXTRAS (default: none): see setup.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up "${EXTRAS:-}"
has_config "$@" || set -- --config=configs/digits.py "$@"
cd "$ROOT"
exec "$VENV/bin/python" -m fastfill_jax.main "$@"
