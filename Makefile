# throat.stack: what a developer and a first-time visitor type.
SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := source .venv/bin/activate &&

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## install the controller's tools into .venv
	@bin/ensure-venv

.PHONY: demo
demo: tools ## bring the whole stack up on a local container and print its address
	@bin/ensure-docker
	@bin/demo

.PHONY: test
test: CHECKS := --checks
test: molecule ## run the tests (SCENARIO=default: that one alone; and TEST=<part of a name>: on its standing hosts)

.PHONY: campaign
campaign: tools ## run what repeats and lasts, and the benchmarks
	@bin/ensure-docker
	$(RUN) bin/alone bin/scenarios --set campaign

.PHONY: lint
lint: tools ## check the style of everything
	$(RUN) yamllint --strict .
	$(RUN) ansible-lint --offline
	$(RUN) antsibull-changelog lint

.PHONY: unit
unit: tools ## test the arithmetic and the argument specifications
	$(RUN) PYTHONPATH=.ansible/collections pytest -q tests/unit

.PHONY: compat
compat: tools ## test plugins and playbooks with every ansible-core that is supported
	@$(RUN) bin/compat

.PHONY: molecule
molecule: tools ## converge test hosts and test them from outside
	@bin/ensure-docker
	@$(RUN) bin/alone bin/scenarios $(if $(SCENARIO),,$(CHECKS)) $(if $(TEST),--test '$(TEST)') $(SCENARIO)

.PHONY: docs
docs: tools ## make docs/variables.md from the argument specifications
	$(RUN) bin/variables > docs/variables.md

bench-noop: ## measure a run that has nothing to do (PEERS=<directory of other people's roles>: beside them)
bench-edge: ## measure the edge: static files, compression, and the way to each worker
bench-db: ## measure a database connection per request, by the way that it takes
bench-deploy: ## measure a deploy of a change of code, on one application host and on four
bench-backup: ## measure backups and restores beside pg_dump
bench-runtime: ## measure the workers of both runtimes side by side
bench-sandbox: ## measure what the sandboxes cost

BENCHMARKS := bench-noop bench-edge bench-db bench-deploy bench-backup bench-runtime bench-sandbox
.PHONY: $(BENCHMARKS)
$(BENCHMARKS): tools
	@bin/ensure-docker
	$(RUN) bin/alone tests/bench/$(@:bench-%=%) $(if $(PEERS),--peers $(PEERS))

.PHONY: clean
clean: ## remove everything that demo and test have made
	-docker ps --all --quiet --filter label=throat.stack=1 | xargs --no-run-if-empty docker rm --force --volumes
	-docker volume ls --quiet --filter label=throat.stack=1 | xargs --no-run-if-empty docker volume rm
	-docker network ls --quiet --filter label=throat.stack=1 | xargs --no-run-if-empty docker network rm
	-docker images --quiet --filter label=throat.stack=1 | sort -u | xargs --no-run-if-empty docker rmi --force
	-docker rmi --force throat-stack-base:debian12 throat-stack-base:debian13 2>/dev/null
	rm -rf .venv .ansible .cache artifacts ~/.cache/throat.stack inventories/test/.secrets molecule/*/inventory/.secrets
