#!/usr/bin/env bash
# `make demo`: the simulated node, a real Prometheus that scrapes it as a cluster's would, and a
# real Alertmanager whose pages are printed here. Ctrl-C ends all and removes their data.
# DEMO_SECONDS=N ends it N seconds after all is up; DEMO_PORT, DEMO_PROMETHEUS_PORT and
# DEMO_ALERTMANAGER_PORT are tried first, then the ports after them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LOGS=$PWD/.cache/demo
START_SECONDS=120 # to wait for a slow machine
PYTHON=$PWD/.venv/bin/python
GPUCOST=$PWD/.venv/bin/gpucost
PROMETHEUS=${GPUCOST_PROMETHEUS:-$(PATH=$PATH:$PWD/.cache/prometheus/bin command -v prometheus || true)}

die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

ALERTMANAGER=${GPUCOST_ALERTMANAGER:-$(PATH=$PATH:$PWD/.cache/alertmanager/bin command -v alertmanager || command -v prometheus-alertmanager || true)}

[ -x "$GPUCOST" ] || die 'no .venv; start it with: make demo'
[ -n "$PROMETHEUS" ] || die 'no prometheus on PATH; make demo fetches it, or install it: apt-get install prometheus'
[ -n "$ALERTMANAGER" ] || die 'no alertmanager on PATH; make demo fetches it, or install it: apt-get install prometheus-alertmanager'

children=()
logs=()
data=$(mktemp -d "${TMPDIR:-/tmp}/gpucost-demo.XXXXXX")

# Every way out stops all programs, waits for them, and removes what Prometheus stored.
finish() {
  local status=$?
  trap '' INT TERM
  trap - EXIT
  [ ${#children[@]} -eq 0 ] || kill -TERM "${children[@]}" 2>/dev/null || true
  wait
  rm -rf "$data"
  exit "$status"
}
trap finish EXIT
trap 'echo; echo "demo: stopping"; exit 0' INT TERM

# The first port from $1 on that nobody listens on.
free_port() {
  "$PYTHON" - "$1" <<'END'
import socket, sys

for port in range(int(sys.argv[1]), int(sys.argv[1]) + 200):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
else:
    sys.exit("demo: no free port")
END
}

# fetch URL: the body, or failure. (curl and wget may be absent on a fresh machine.)
fetch() {
  "$PYTHON" - "$1" <<'END'
import sys, urllib.error, urllib.request

try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5) as answer:
        sys.stdout.buffer.write(answer.read())
except (OSError, urllib.error.URLError) as error:
    sys.exit(str(error))
END
}

# All programs must go on: a port that answers may be another demo's.
check_alive() {
  local index
  for index in "${!children[@]}"; do
    kill -0 "${children[index]}" 2>/dev/null || { tail -n 20 "${logs[index]}" >&2; die "a program ended; its log: ${logs[index]}"; }
  done
}

# wait_for WHAT URL TEXT: until the page at URL holds TEXT.
wait_for() {
  local deadline=$((SECONDS + START_SECONDS))
  # Not grep -q: it leaves at its first match, and a long page then fails for a broken pipe.
  until fetch "$2" 2>/dev/null | grep -- "$3" >/dev/null; do
    check_alive
    [ "$SECONDS" -lt "$deadline" ] || { tail -n 20 "${logs[@]}" >&2; die "no $1 within $START_SECONDS s; logs: ${logs[*]}"; }
    sleep 0.5
  done
  check_alive
}

mkdir -p "$LOGS"
port=$(free_port "${DEMO_PORT:-10190}")
logs+=("$LOGS/gpucost-$port.log")
"$GPUCOST" demo --listen "127.0.0.1:$port" >"${logs[0]}" 2>&1 &
children+=("$!")
wait_for 'page of the exporter' "http://127.0.0.1:$port/metrics" '^gpucost_node_info'

# As the chart's monitors do it: the target is named after its node and nothing else, and the
# exporter's own namespace, pod and container labels are the ones that count.
node=$(fetch "http://127.0.0.1:$port/metrics" | sed -n 's/^gpucost_node_info{.*\bnode="\([^"]*\)".*/\1/p')
"$PYTHON" scripts/render_rules.py --settings rules/settings/demo.yaml --out "$data/rules"

# Pages: Alertmanager hands them to a receiver that prints them here, below what is said at the end.
alerts_port=$(free_port "${DEMO_ALERTMANAGER_PORT:-9093}")
pages_port=$(free_port $((alerts_port + 1)))
cat >"$data/alertmanager.yml" <<END
route:
  receiver: here
  group_by: [alertname, namespace, pod, budget, node_pool]
  group_wait: 1s
  group_interval: 10s
receivers:
  - name: here
    webhook_configs:
      - url: "http://127.0.0.1:$pages_port/"
END
logs+=("$LOGS/pages-$pages_port.log")
"$PYTHON" scripts/print_pages.py "$pages_port" 2>"${logs[-1]}" &
children+=("$!")
logs+=("$LOGS/alertmanager-$alerts_port.log")
"$ALERTMANAGER" --config.file="$data/alertmanager.yml" --storage.path="$data/alerts" \
  --web.listen-address="127.0.0.1:$alerts_port" --cluster.listen-address= --log.level=warn >"${logs[-1]}" 2>&1 &
children+=("$!")
wait_for 'Alertmanager' "http://127.0.0.1:$alerts_port/-/ready" 'OK'

cat >"$data/prometheus.yml" <<END
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: ["$data/rules/*.yaml"]
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["127.0.0.1:$alerts_port"]
scrape_configs:
  - job_name: gpucost
    honor_labels: true
    static_configs:
      - targets: ["127.0.0.1:$port"]
        labels:
          instance: "$node"
END

web_port=$(free_port "${DEMO_PROMETHEUS_PORT:-9090}")
logs+=("$LOGS/prometheus-$web_port.log")
"$PROMETHEUS" --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/tsdb" \
  --web.listen-address="127.0.0.1:$web_port" --log.level=warn >"${logs[-1]}" 2>&1 &
children+=("$!")
web=http://127.0.0.1:$web_port
echo 'demo: waiting for the first dollars in Prometheus'
wait_for 'dollars in Prometheus' "$web/api/v1/query?query=sum(gpucost_pod_cost_usd_total)%3E0" '"value":'

ending='Ctrl-C ends it.'
[ -z "${DEMO_SECONDS:-}" ] || ending="Ends by itself in $DEMO_SECONDS s."
cat <<END

  A simulated node ($node): no GPU is read, no money is spent.

    this node now     http://127.0.0.1:$port/
    its metrics       http://127.0.0.1:$port/metrics
    Prometheus        $web/graph?g0.expr=sum%20by%20(pod)%20(gpucost_pod_cost_usd_total)&g0.tab=0&g0.range_input=15m

    alerts            $web/alerts

  Pages are printed below as Alertmanager sends them; that of the idle notebook comes within two
  minutes. (Thresholds are shortened: rules/settings/demo.yaml.)

  Four queries worth pasting there:

    what each pod costs, USD an hour
      sum by (namespace, pod) (gpucost_pod_cost_usd_per_hour)
    where the money went, by state, in the last 5 minutes
      sum by (state) (increase(gpucost_gpu_cost_usd_total[5m]))
    waste in USD an hour, and why
      topk(5, sum by (pod, reason) (gpucost_pod_waste_usd_per_hour) > 0)
    what a request to the chat server costs, USD (after a minute)
      gpucost_pod_cost_per_request_usd

  Logs: .cache/demo/. $ending

END

end=$((SECONDS + ${DEMO_SECONDS:-2000000000}))
while [ "$SECONDS" -lt "$end" ]; do
  check_alive
  sleep 0.5
done
