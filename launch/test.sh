#!/usr/bin/env bash
# Installs on a fresh machine and runs the tests; arguments go to pytest.
#
#   launch/test.sh [tests/curve_test.py] [-k PATTERN]
#
# PYTHON, VENV, EXTRAS (beside "test"): see setup.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up "test${EXTRAS:+,$EXTRAS}"
cd "$ROOT"
exec "$VENV/bin/python" -m pytest -n 4 --dist loadfile "$@"
