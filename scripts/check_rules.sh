#!/usr/bin/env bash
# Prometheus's own word on rules/: syntax of every file, for every settings file, and the rule tests.
#
# Tests of behaviour run on copies without annotations, so that a change of words breaks none of
# them; rules/tests/words-*.yaml hold the words, on the rules as they are. They evaluate weeks, which
# takes minutes: what passed once is not asked again until a file of it, or promtool, is another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python}

passed=.cache/rules-passed
asked=$({ promtool --version; cat rules/*.yaml rules/*/*.yaml scripts/render_rules.py scripts/check_rules.sh; } | sha256sum)
[ "$(cat "$passed" 2>/dev/null)" != "$asked" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # FILE...
  promtool check rules "$@" >"$work/output" 2>&1 || { cat "$work/output"; exit 1; }
}

"$PYTHON" scripts/render_rules.py --check
check rules/*.yaml
for settings in rules/settings/*.yaml; do
  name=$(basename "$settings" .yaml)
  "$PYTHON" scripts/render_rules.py --settings "$settings" --out "$work/rendered/$name"
  check "$work/rendered/$name"/*.yaml
done

# The rules beside their tests, as the tests' relative paths want them: with and without words.
for way in silent words; do
  mkdir -p "$work/$way/tests/settings"
  cp rules/*.yaml "$work/$way/"
  cp "$work/rendered/tests/scaling.yaml" "$work/$way/" # reads the workloads that it is asked for
  cp "$work/rendered/tests/settings.yaml" "$work/$way/tests/settings/all.yaml"
done
for file in "$work"/silent/*.yaml; do
  awk '/^        annotations:$/ {skip = 1; next} skip && /^          / {next} {skip = 0; print}' \
    "$file" >"$work/stripped"
  cp "$work/stripped" "$file"
done
cp rules/tests/*.yaml "$work/silent/tests/"
mv "$work"/silent/tests/words-*.yaml "$work/words/tests/"

# As many at a time as there are processors, the longest first; promtool prints "SUCCESS" and nothing else of what is right.
ls -S "$work"/silent/tests/*.yaml "$work"/words/tests/*.yaml |
  xargs -P "$(nproc)" -I {} sh -c 'out=$(promtool test rules "$1" 2>&1) || { printf "%s\n" "$out"; exit 1; }' - {}

mkdir -p "$(dirname "$passed")"
echo "$asked" >"$passed"
