#!/usr/bin/env bash
# Resolves the requirements into hash-locked files, for every Python and platform at once.
# Pins stay as they are unless a change of pyproject.toml or --upgrade asks for others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() { # OUTPUT ARGUMENT...
  local output=$1
  shift
  .cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
    --output-file "$output" "$@" >/dev/null
}

# Each file is held to the one before it: what is tested is what is shipped.
compile requirements/runtime.txt "$@" pyproject.toml
compile requirements/build.txt "$@" --group build
compile requirements/test.txt "$@" pyproject.toml --group test --group lint --group build \
  --constraint requirements/runtime.txt --constraint requirements/build.txt
compile requirements/bench.txt "$@" --group bench
compile requirements/fuzz.txt "$@" pyproject.toml --group fuzz --constraint requirements/runtime.txt
