# Everything a developer or CI runs. Needs git and make; scripts/bootstrap.sh brings the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python

# A program on the caller's PATH wins over the one that bootstrap fetched.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH):$(CURDIR)/.cache/prometheus/bin:$(CURDIR)/.cache/alertmanager/bin
# What is started from a checkout must not litter it, and not ask anything.
export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: test
test: ready lint ## lint, types, import contracts and every test that needs neither root, Go nor a cluster
	$(PY) -m pytest

.PHONY: ready
ready: # everything the tests need, asked for at once
	@scripts/bootstrap.sh python compiler prometheus alertmanager

.PHONY: lint
lint: ## ruff, mypy, import contracts, generated docs, Prometheus rules
	@scripts/bootstrap.sh python prometheus
	ruff check
	ruff format --check
	mypy
	lint-imports --no-logo
	$(PY) scripts/gen_docs.py --check
	$(PY) scripts/build_prices.py --check
	$(PY) -m dashboards.build --check
	@scripts/check_rules.sh

.PHONY: fmt
fmt: ## format the code and put right what ruff can
	@scripts/bootstrap.sh python
	ruff format
	ruff check --fix

.PHONY: docs
docs: ## make the generated parts of docs/, the shipped price list and the boards again
	@scripts/bootstrap.sh python
	$(PY) scripts/gen_docs.py
	$(PY) scripts/build_prices.py
	$(PY) -m dashboards.build

.PHONY: demo
demo: ## a simulated 8-GPU node, a real Prometheus and the pages it sends; Ctrl-C ends it
	@scripts/bootstrap.sh python prometheus alertmanager
	@scripts/demo.sh

.PHONY: pictures
pictures: ## every Grafana board drawn from a played day: .cache/pictures/*.png
	@scripts/bootstrap.sh python prometheus chromium
	GPUCOST_PICTURES=.cache/pictures $(PY) -m pytest tests/integration/test_boards.py
	@ls .cache/pictures/*.png

.PHONY: slow
slow: ready ## the tests that take minutes: a price list of 2 GB, an exporter that is stopped for minutes
	$(PY) -m pytest -m slow --ignore tests/integration/test_rulers.py --ignore tests/integration/test_vmalert.py

.PHONY: rulers
rulers: ## the rules on Prometheus 2 and 3 and VictoriaMetrics, and vmalert that pages (Go >= 1.26)
	@scripts/bootstrap.sh python prometheus alertmanager victoriametrics
	$(PY) -m pytest -m slow tests/integration/test_rulers.py tests/integration/test_vmalert.py

.PHONY: deaths
deaths: ready ## a thousand random deaths of the exporter, and a stop of minutes: half an hour
	GPUCOST_KILLS=1000 $(PY) -m pytest -m 'slow or not slow' tests/integration/test_deaths.py

.PHONY: mutants
mutants: ## whether the rules' tests miss every side of every `or` and every condition
	@scripts/bootstrap.sh python prometheus
	PYTHONPATH=tests:scripts $(PY) tests/mutate_rules.py

.PHONY: bench
bench: ## the published figures, one line each: name value unit goal
	@scripts/bootstrap.sh python compiler bench
	$(PY) tests/bench/run.py
	PYTHONPATH=exporter $(PY) tests/bench/inference_servers.py

.PHONY: accuracy
accuracy: ## how exact the bill is: known truth, the real core, a real Prometheus (ARGUMENTS="--hours 24")
	@scripts/bootstrap.sh python prometheus
	@PYTHONPATH=tests $(PY) tests/accuracy/run.py $(ARGUMENTS)

.PHONY: accuracy-month
accuracy-month: ## how exact the rules' month to date is, with ten days of retention (ARGUMENTS="--days 3")
	@scripts/bootstrap.sh python prometheus
	@PYTHONPATH=tests $(PY) tests/accuracy/month.py $(ARGUMENTS)

.PHONY: fuzz
fuzz: ## fuzz every parser and the HTTP server (RUNS inputs each, TARGETS some of them)
	@scripts/bootstrap.sh python fuzz
	@.cache/fuzz/bin/python tests/fuzz/fuzz.py $(if $(RUNS),--runs $(RUNS)) $(TARGETS)

.PHONY: published
published: ## the chart, its examples and the workflows as their makers take them (Go >= 1.26)
	@scripts/bootstrap.sh python
	PYTHONPATH=tests:exporter $(PY) -m published
	GPUCOST_PUBLISHED=1 $(PY) -m pytest tests/unit/test_examples.py tests/unit/test_workflows.py

# Root's PATH is often not the caller's: sudo env "PATH=$$PATH" make cluster
CLUSTER := PYTHONPATH=tests $(PY) -m cluster

.PHONY: cluster
cluster: ## a real Kubernetes node with played GPUs, on this machine (root; Go >= 1.26)
	@scripts/bootstrap.sh python compiler cluster
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## end it; nothing is left but the programs in ~/.cache/gpucost
	@scripts/bootstrap.sh python
	@$(CLUSTER) down

.PHONY: e2e
e2e: ## the steps on that node, or on the cluster of KUBECONFIG; STEP=words for some of them
	@scripts/bootstrap.sh python compiler cluster
	$(CLUSTER) run $(PY) -m pytest -rP tests/e2e $(if $(STEP),-k '$(STEP)')

.PHONY: e2e-long
e2e-long: $(if $(STEP),,deaths) ## what takes long: a thousand deaths; KEDA and prometheus-operator on the node
	@scripts/bootstrap.sh python compiler cluster
	$(CLUSTER) programs --operators
	$(CLUSTER) run $(PY) -m pytest -rP tests/e2e -m slow $(if $(STEP),-k '$(STEP)')

.PHONY: lock
lock: ## resolve the locked requirements again (UPGRADE=1: to the newest versions)
	@scripts/bootstrap.sh lock
	scripts/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## remove everything that the other targets made
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find exporter tests scripts -type d -name __pycache__ -prune -exec rm -rf {} +
