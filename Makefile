# make reproduce   environment, then the study to its report        (STUDY=config/demo.yaml CORES=all)
# make test        environment, then all tests                      (PYTEST="-m 'not slow'")
PYTHON ?= python3
STUDY ?= config/demo.yaml
CORES ?= all
PYTEST ?=
NAME = $(shell sed -n 's/^name: *//p' $(STUDY))
BIN = .venv/bin

.PHONY: reproduce report test lint clean

reproduce: .venv/ready
	$(BIN)/snakemake --cores $(CORES) --config study=$(STUDY)
	@$(MAKE) --no-print-directory report STUDY=$(STUDY)

report: .venv/ready
	$(BIN)/snakemake --cores 1 --config study=$(STUDY) --report results/$(NAME)/report.html
	@echo
	@echo "report:  results/$(NAME)/report.html"
	@echo "tables:  results/$(NAME)/tables/    figures: results/$(NAME)/figures/    numbers: results/$(NAME)/metrics.tsv"
	@echo
	@cat results/$(NAME)/tables/main.md

test: .venv/ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest $(PYTEST)

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or later is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .snakemake
