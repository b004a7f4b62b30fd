#!/usr/bin/env bash
# Prometheus's own word on rules/: syntax of every file, and the rule tests.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rules=(rules/*.yaml)
tests=(rules/tests/*.yaml)
[ ${#rules[@]} -eq 0 ] || promtool check rules "${rules[@]}"
[ ${#tests[@]} -eq 0 ] || promtool test rules "${tests[@]}"
