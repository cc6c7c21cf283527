# throat.stack: what a developer and a first-time visitor type.
SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := source .venv/bin/activate &&
DEMO := inventories/test
TEST := tests/site/inventory

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools:
	@bin/ensure-venv

.PHONY: demo
demo: tools ## bring the whole stack up on a local container and print its address
	@bin/ensure-docker
	@bin/demo

.PHONY: test
test: lint unit site ## run every test

.PHONY: lint
lint: tools ## check the style of everything
	$(RUN) yamllint --strict .
	$(RUN) ansible-lint --offline

.PHONY: unit
unit: tools ## test the arithmetic and the argument specifications
	$(RUN) PYTHONPATH=.ansible/collections pytest -q tests/unit

.PHONY: site
site: tools ## converge a test host with everything on it and test it from outside
	@bin/ensure-docker
	$(RUN) tests/site/run

.PHONY: clean
clean: ## remove everything that demo and test have made
	-docker ps --all --quiet --filter label=throat.stack=1 | xargs --no-run-if-empty docker rm --force --volumes
	-docker images --quiet --filter label=throat.stack=1 | sort -u | xargs --no-run-if-empty docker rmi --force
	-docker rmi --force throat-stack-base:debian12 throat-stack-base:debian13 2>/dev/null
	rm -rf .venv .ansible .cache .pytest_cache inventories/test/.secrets tests/site/inventory/.secrets ~/.cache/throat.stack
