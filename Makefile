# Thin by design: each target makes the virtual environment (quick the second time) and calls one command.
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help up down status test unit check format bench bench-controllers bench-nodes conformance differential differential-scheduling stress-scheduling faults chaos soak docs images requirements setup clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 26

setup:
	@tools/setup $(VENV)

up: setup ## Start a local cluster (ARGS="--nodes 100", see 'whipstaff up --help')
	@$(BIN)/whipstaff up $(ARGS)

down: setup ## Stop it and leave nothing behind
	@$(BIN)/whipstaff down $(ARGS)

status: setup ## What runs, and how it is
	@$(BIN)/whipstaff status $(ARGS)

test: setup ## All tests: unit, then those on a real etcd and kube-apiserver
	@$(BIN)/whipstaff binaries --images >/dev/null
	@$(BIN)/whipstaff binaries kubelet helm >/dev/null
	@$(BIN)/pytest -m "not apiserver and not cluster and not kind" -n 2 -q $(ARGS)
	@$(BIN)/pytest -m "apiserver or cluster" -n 2 --dist loadfile -q --durations 10 $(ARGS)

unit: setup ## The tests that need no cluster
	@$(BIN)/pytest -m "not apiserver and not cluster and not kind and not chart" -n 2 -q $(ARGS)

check: setup ## Formatting, lints, types, layers, workflows, the chart's README
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@tools/actionlint
	@$(BIN)/python -m charts.readme --check

format: setup ## Format and mend what can be mended
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench: setup ## The scheduler against the stock kube-scheduler (half an hour; ARGS="--workload SchedulingBasic": one workload)
	@$(BIN)/python -m bench $(ARGS)

bench-controllers: setup ## The controllers against the stock kube-controller-manager, with and without its limits
	@$(BIN)/python -m bench.controllers $(ARGS)

bench-nodes: setup ## The node agent against the stock kubelet, on one node with real containers
	@$(BIN)/python -m bench.nodes $(ARGS)

conformance: setup ## Upstream's tests on two nodes with containers (FOCUS=... SKIP=... NODES=2)
	@$(BIN)/python -m e2e.conformance --nodes $(or $(NODES),2) $(if $(FOCUS),--focus '$(FOCUS)') $(if $(SKIP),--skip '$(SKIP)') $(ARGS)

differential: setup ## Random users on two clusters, with the stock controllers and with ours: no difference
	@$(BIN)/pytest e2e/controllers/test_differential.py -m cluster --full -s $(ARGS)

differential-scheduling: setup ## Random pods on random clusters, to the stock scheduler and to ours: no difference
	@$(BIN)/pytest e2e/scheduling/test_differential_scheduling.py -m cluster --full -s $(ARGS)

stress-scheduling: setup ## Ours and the stock scheduler on the same nearly full nodes: who overfills how many
	@$(BIN)/pytest e2e/scheduling/test_beside_another.py -m cluster --full -s $(ARGS)

faults: setup ## A node whose agent is killed 100 times, whose disk fills up, whose API server is away ...
	@$(BIN)/pytest e2e/faults -m cluster --full $(ARGS)

chaos: setup ## Rollouts while the controllers are killed 200 times, and the API server has bad days
	@$(BIN)/pytest e2e/controllers -m cluster --full -s $(ARGS)

soak: setup ## 5,000 pods onto 1,000 nodes while components are killed
	@$(BIN)/pytest e2e/test_soak.py -m cluster --full $(ARGS)

docs: setup ## The documentation's pages, into site/; broken links are errors
	@UV=.uv/bin/uv tools/docs $(BIN)/python

images: setup ## The container images, without Docker and without a registry (as root, with buildah and mmdebstrap)
	@$(BIN)/python -m images $(ARGS)

requirements: setup ## Pin the dependencies anew
	@UV=.uv/bin/uv tools/requirements

clean: ## Remove the virtual environments (the cluster's binaries stay in the user's cache)
	rm -rf .venv .uv
