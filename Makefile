# make reproduce   environment, then the study to its report        (STUDY=config/demo.yaml CORES=all)
#                  (CONSTRAINTS=FILE for a PyTorch that fits an older driver: docs/cluster.md)
# make test        environment, then every test that needs no scheduler, two at a time
# make test-all    the same, then the long tests, those that measure time, and Slurm
# make coverage    make test, with the share of lines that the tests run
# make lint        ruff and mypy
# make docs        the documentation as a site, in build/site; a broken link is an error
PYTHON ?= python3
STUDY ?= config/demo.yaml
CORES ?= all
CONSTRAINTS ?= constraints.txt
BIN = .venv/bin
PYTEST = $(BIN)/python -m pytest
PARALLEL = -n 2 --dist worksteal
# By way of the environment, so that the shell does not interpret characters of a path.
export STUDY

.PHONY: reproduce report test test-all test-rest coverage lint docs clean study

.DEFAULT_GOAL = reproduce

study:
	@test -f "$$STUDY" || { printf '%s\n' "STUDY=$$STUDY: no such file; give the path of a study, such as STUDY=config/demo.yaml" >&2; exit 2; }

reproduce: study .venv/ready
	$(BIN)/snakemake --cores $(CORES) --config "study=$$STUDY"
	@$(MAKE) --no-print-directory report

report: study .venv/ready
	@out=results/$$(sed -n 's/^name: *//p' "$$STUDY") && \
	$(BIN)/snakemake --cores 1 --config "study=$$STUDY" --report "$$out/report.html" && \
	printf '\n%s\n' "report:  $$out/report.html" \
		"tables:  $$out/tables/    figures: $$out/figures/    numbers: $$out/metrics.tsv" "" && \
	cat "$$out/tables/main.md"

test: .venv/ready
	$(PYTEST) $(PARALLEL) -m 'not long and not alone'

test-all: test test-rest

test-rest: .venv/ready
	$(PYTEST) $(PARALLEL) -m 'long and not alone'
	$(PYTEST) -m alone

coverage: .venv/ready
	rm -rf build/coverage && mkdir -p build/coverage
	$(PYTEST) $(PARALLEL) -m 'not long and not alone' --cov --cov-report=
	$(BIN)/python -m coverage report

lint: .venv/ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: .venv/ready
	$(BIN)/python -m mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11, 4), f"Python 3.11.4 or later is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[test,docs]'
	$(BIN)/python -c 'from mlssl.runtime.device import unusable_gpu; print(unusable_gpu() or "")'
	touch $@

clean:
	rm -rf .venv .snakemake build
