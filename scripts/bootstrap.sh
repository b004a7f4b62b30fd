#!/usr/bin/env bash
# Brings what the Makefile's targets need to a machine that has git and make, and nothing more:
# Debian 12+ or Ubuntu 24.04+. Without root it asks for what only root can install, in one line.
#
#   scripts/bootstrap.sh [python] [compiler] [prometheus] [alertmanager] [victoriametrics] [chromium] [cluster] [lock] [bench] [fuzz]
#
# What is there already is left alone, and a run with nothing to do uses no network. Everything
# it makes lies in .venv and .cache of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CACHE=$PWD/.cache
# The official image that Prometheus is copied from where there is no Debian package to be had.
PROMETHEUS_IMAGE=${PROMETHEUS_IMAGE:-prom/prometheus:v3.5.0}
ALERTMANAGER_IMAGE=${ALERTMANAGER_IMAGE:-prom/alertmanager:v0.28.1}
UV=uv==0.13.9 # resolves the locks; nothing else uses it

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Install Debian packages, as root. The package lists may be absent or out of date.
apt_install() {
  command -v apt-get >/dev/null || return 1
  is_root || return 1
  say "installing $*"
  local -a install=(apt-get install -y -q --no-install-recommends "$@")
  DEBIAN_FRONTEND=noninteractive "${install[@]}" >"$CACHE/apt.log" 2>&1 ||
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive "${install[@]}"; } >"$CACHE/apt.log" 2>&1 ||
    { tail -n 5 "$CACHE/apt.log" >&2; return 1; }
}

# --- Python -------------------------------------------------------------------------------------

# The first interpreter that is new enough and can make a virtual environment. (Debian keeps
# ensurepip in python3-venv; without it `python3 -m venv` fails half way.)
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      # Its base: under make the first python3 is that of .venv, which may be about to go.
      "$candidate" -c 'import sys; print(sys._base_executable)'
      return
    fi
  done
  return 1
}

# An environment is made again whenever what it was made from, or the interpreter under it,
# has changed; pyproject.toml's settings of lint and tests do not count.
stamp_of() { # FILE...
  cat scripts/bootstrap.sh "$@" | sed '/^\[tool\.ruff\]/,$d' | sha256sum | cut -d ' ' -f 1
}

fresh() { # DIR STAMP
  [ "$(cat "$1/.stamp" 2>/dev/null)" = "$2" ] && "$1/bin/python" -c '' 2>/dev/null
}

new_venv() { # DIR
  local interpreter
  interpreter=$(find_python)
  say "making $(basename "$1") with $interpreter"
  rm -rf "$1"
  "$interpreter" -m venv "$1"
}

# Locked files name every package with its hashes, so pip need not and must not resolve:
# nothing is upgraded, downgraded or built here.
pip_locked() { # DIR FILE...
  local dir=$1 file
  shift
  local -a files=()
  for file in "$@"; do files+=(-r "$file"); done
  "$dir/bin/python" -m pip install --quiet --no-input --no-deps --require-hashes --only-binary :all: "${files[@]}"
}

need_python() {
  local stamp
  stamp=$(stamp_of requirements/test.txt pyproject.toml)
  fresh .venv "$stamp" && return
  new_venv "$PWD/.venv"
  pip_locked .venv requirements/test.txt
  # hatchling is in the lock, so the project itself needs no download either.
  .venv/bin/python -m pip install --quiet --no-input --no-deps --no-build-isolation --editable .
  .venv/bin/python -m pip check --quiet || die "requirements/test.txt does not fit together; run: make lock"
  echo "$stamp" >.venv/.stamp
}

need_bench() {
  local stamp
  stamp=$(stamp_of requirements/bench.txt)
  fresh "$CACHE/bench" "$stamp" && return
  new_venv "$CACHE/bench"
  pip_locked "$CACHE/bench" requirements/bench.txt
  echo "$stamp" >"$CACHE/bench/.stamp"
}

need_fuzz() {
  local stamp
  stamp=$(stamp_of requirements/fuzz.txt)
  fresh "$CACHE/fuzz" "$stamp" && return
  new_venv "$CACHE/fuzz"
  pip_locked "$CACHE/fuzz" requirements/fuzz.txt
  echo "$PWD/exporter" >"$("$CACHE/fuzz/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gpucost.pth"
  echo "$stamp" >"$CACHE/fuzz/.stamp"
}

need_lock() {
  fresh "$CACHE/lock" "$UV" && return
  new_venv "$CACHE/lock"
  "$CACHE/lock/bin/python" -m pip install --quiet --no-input --only-binary :all: "$UV"
  echo "$UV" >"$CACHE/lock/.stamp"
}

# --- The C compiler -----------------------------------------------------------------------------

# The tests build a libnvidia-ml.so.1 of their own: a compiler without the C library's headers
# is no use.
can_compile() {
  echo '#include <stdlib.h>' | gcc -x c -fsyntax-only - 2>/dev/null
}

# --- Prometheus and promtool --------------------------------------------------------------------

need_prometheus() {
  command -v prometheus >/dev/null && command -v promtool >/dev/null && return
  local bin=$CACHE/prometheus/bin
  [ -x "$bin/prometheus" ] && [ -x "$bin/promtool" ] && return
  prometheus_from_debian && return
  prometheus_from_image && return
  die 'no Prometheus, and neither apt nor docker nor podman brought one. Install it: apt-get install prometheus (or put prometheus and promtool on PATH)'
}

# Debian's package, unpacked and not installed: an installed one starts a service on port 9090.
# Works without root, and without package lists by fetching lists of its own.
prometheus_from_debian() {
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
  local work=$CACHE/apt root=$CACHE/prometheus/root log=$CACHE/apt.log
  say 'fetching Debian'\''s package of Prometheus'
  rm -rf "$CACHE/prometheus" "$work/debs"
  mkdir -p "$root" "$work/debs" "$work/lists/partial" "$work/cache/archives/partial"
  # The second try uses private lists, which need no root and no `apt-get update` before.
  local -a private=(-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache")
  download_debs "$work/debs" >"$log" 2>&1 ||
    { apt-get -q "${APT_QUIET[@]}" "${private[@]}" update && download_debs "$work/debs" "${private[@]}"; } >>"$log" 2>&1 ||
    { tail -n 3 "$log" >&2; return 1; }
  local deb
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$work" "$root/usr/share/doc" "$root/usr/share/javascript/moment-timezone/data" # 200 MB that no page asks for
  [ -x "$root/usr/bin/prometheus" ] && [ -x "$root/usr/bin/promtool" ] || return 1
  mkdir -p "$CACHE/prometheus/bin"
  ln -s ../root/usr/bin/promtool "$CACHE/prometheus/bin/promtool"
  # Debian's build reads its web pages from /usr/share, upstream's carries them inside.
  local assets=
  [ ! -d "$root/usr/share/prometheus/web" ] || assets='--web.local-assets="$root/usr/share/prometheus/web/"'
  cat >"$CACHE/prometheus/bin/prometheus" <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../root
exec "\$root/usr/bin/prometheus" $assets "\$@"
END
  chmod +x "$CACHE/prometheus/bin/prometheus"
  "$CACHE/prometheus/bin/prometheus" --version >/dev/null 2>&1
}

# --- Alertmanager, for the demo's pages ---------------------------------------------------------

need_alertmanager() {
  command -v alertmanager >/dev/null || command -v prometheus-alertmanager >/dev/null && return
  [ -x "$CACHE/alertmanager/bin/alertmanager" ] && return
  alertmanager_from_debian && return
  alertmanager_from_image && return
  die 'no Alertmanager, and neither apt nor docker nor podman brought one. Install it: apt-get install prometheus-alertmanager (or put alertmanager on PATH)'
}

# A package of Debian's in $CACHE/NAME/root: unpacked and not installed, for the same reasons as
# Prometheus.
unpack_debian() { # NAME PACKAGE
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
  local work=$CACHE/apt-$1 root=$CACHE/$1/root log=$CACHE/apt.log
  say "fetching Debian's package $2"
  rm -rf "${CACHE:?}/$1" "$work"
  mkdir -p "$root" "$work/debs" "$work/lists/partial" "$work/cache/archives/partial"
  local -a private=(-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache")
  local -a download=(download "$2")
  (cd "$work/debs" && apt-get -q "${APT_QUIET[@]}" "${download[@]}") >"$log" 2>&1 ||
    (cd "$work/debs" && apt-get -q "${APT_QUIET[@]}" "${private[@]}" update &&
      apt-get -q "${APT_QUIET[@]}" "${private[@]}" "${download[@]}") >>"$log" 2>&1 ||
    { tail -n 3 "$log" >&2; return 1; }
  dpkg -x "$work"/debs/*.deb "$root"
  rm -rf "$work" "$root/usr/share/doc"
}

alertmanager_from_debian() {
  local root=$CACHE/alertmanager/root
  unpack_debian alertmanager prometheus-alertmanager || return 1
  [ -x "$root/usr/bin/prometheus-alertmanager" ] || return 1
  # Debian's build reads its templates from /usr/share and has no flag for it: the same path
  # without its first slash (and with one at its end, to keep the length) is relative, to our root.
  LC_ALL=C sed -i 's#/usr/share/prometheus/alertmanager#usr/share/prometheus/alertmanager/#g' \
    "$root/usr/bin/prometheus-alertmanager"
  mkdir -p "$CACHE/alertmanager/bin"
  cat >"$CACHE/alertmanager/bin/alertmanager" <<'END'
#!/bin/sh
# Its file arguments must be absolute.
cd "$(dirname "$(readlink -f "$0")")/../root" && exec usr/bin/prometheus-alertmanager "$@"
END
  chmod +x "$CACHE/alertmanager/bin/alertmanager"
  "$CACHE/alertmanager/bin/alertmanager" --version >/dev/null 2>&1
}

alertmanager_from_image() {
  local engine container
  for engine in docker podman; do
    command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1 || continue
    say "copying Alertmanager out of $ALERTMANAGER_IMAGE with $engine"
    rm -rf "$CACHE/alertmanager"
    mkdir -p "$CACHE/alertmanager/bin"
    container=$("$engine" create "$ALERTMANAGER_IMAGE" 2>"$CACHE/image.log") || { tail -n 3 "$CACHE/image.log" >&2; continue; }
    "$engine" cp "$container:/bin/alertmanager" "$CACHE/alertmanager/bin/" || true
    "$engine" rm "$container" >/dev/null
    "$CACHE/alertmanager/bin/alertmanager" --version >/dev/null 2>&1 && return
  done
  return 1
}

# --- VictoriaMetrics and vmalert, which the rules must hold on too -------------------------------

need_victoriametrics() {
  command -v victoria-metrics >/dev/null && command -v vmalert >/dev/null && return
  [ -x "$CACHE/victoriametrics/bin/vmalert" ] && return
  unpack_debian victoriametrics victoria-metrics &&
    ln -s root/usr/bin "$CACHE/victoriametrics/bin" && return
  die 'no VictoriaMetrics, and apt brought none. Put victoria-metrics and vmalert on PATH'
}

# As root apt drops to a user that cannot write into the checkout.
APT_QUIET=(-o APT::Sandbox::User=root -o Debug::NoLocking=1)

# The package, promtool (a package of its own since Debian 13), and what the web pages are made of.
download_debs() { # DIR APT_OPTION...
  local dir=$1 parts
  shift
  parts=$(apt-cache "$@" depends --recurse --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances prometheus | grep -E '^(promtool$|libjs-|node-|fonts-)' | sort -u)
  # shellcheck disable=SC2086 # one word a package
  (cd "$dir" && apt-get -q "${APT_QUIET[@]}" "$@" download prometheus $parts)
}

# The official image, for machines without apt: its programs are static, so they run anywhere.
prometheus_from_image() {
  local engine container
  for engine in docker podman; do
    command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1 || continue
    say "copying Prometheus out of $PROMETHEUS_IMAGE with $engine"
    rm -rf "$CACHE/prometheus"
    mkdir -p "$CACHE/prometheus/bin"
    container=$("$engine" create "$PROMETHEUS_IMAGE" 2>"$CACHE/image.log") || { tail -n 3 "$CACHE/image.log" >&2; continue; }
    "$engine" cp "$container:/bin/prometheus" "$CACHE/prometheus/bin/" &&
      "$engine" cp "$container:/bin/promtool" "$CACHE/prometheus/bin/" || true
    "$engine" rm "$container" >/dev/null
    "$CACHE/prometheus/bin/promtool" --version >/dev/null 2>&1 && return
  done
  return 1
}

# --- What only root can install, asked for at once ----------------------------------------------

# What the cluster is made with, besides the programs that it builds and unpacks for itself.
missing_programs() {
  command -v ip >/dev/null || echo iproute2
  command -v iptables >/dev/null || echo iptables
  command -v ipset >/dev/null || echo ipset
  command -v buildah >/dev/null || echo buildah
  command -v mmdebstrap >/dev/null || echo mmdebstrap
}

# The boards are drawn by a browser. Ubuntu's own package of it is a snap, which a test cannot use:
# there put a chromium or google-chrome on PATH, or name it in GPUCOST_CHROMIUM.
has_chromium() {
  [ -n "${GPUCOST_CHROMIUM:-}" ] || command -v chromium || command -v google-chrome
} >/dev/null

missing_packages() { # NEED...
  local need
  find_python >/dev/null || echo python3-venv
  for need in "$@"; do
    [ "$need" != compiler ] || can_compile || echo gcc libc6-dev
    [ "$need" != cluster ] || missing_programs
    [ "$need" != chromium ] || has_chromium || echo chromium fonts-dejavu-core
  done
}

needs=("${@:-python}")
for need in "${needs[@]}"; do
  case $need in
  python | compiler | prometheus | alertmanager | victoriametrics | chromium | cluster | lock | bench | fuzz) ;;
  *) die "knows no '$need'; one of: python compiler prometheus alertmanager victoriametrics chromium cluster lock bench fuzz" ;;
  esac
done

mkdir -p "$CACHE"
missing=$(missing_packages "${needs[@]}" | xargs)
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086 # one word a package
  apt_install $missing || true
  missing=$(missing_packages "${needs[@]}" | xargs)
  [ -z "$missing" ] || die "install first: apt-get install $missing (Debian 12+ or Ubuntu 24.04+; elsewhere Python >= 3.11 with venv, and gcc with headers)"
fi
for need in "${needs[@]}"; do
  case $need in compiler | chromium | cluster) ;; *) "need_$need" ;; esac
done
