#!/bin/sh
# The first hour on a GPU: benchmarks/first_hour.sh [OUT]. Call it again after any stop; finished parts are kept.
cd "$(dirname "$0")/.." || exit 1
exec "${PYTHON:-.venv/bin/python}" -m benchmarks.first_hour --out "${1:-results/reference/gpu}"
