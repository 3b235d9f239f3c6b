# make reproduce   environment, then the study to its report        (STUDY=config/demo.yaml CORES=all)
# make test        environment, then all tests: two at a time, then those that need the machine for themselves
PYTHON ?= python3
STUDY ?= config/demo.yaml
CORES ?= all
BIN = .venv/bin
# By way of the environment, so that the shell sees any character in a path as it is.
export STUDY

.PHONY: reproduce report test lint clean

reproduce: .venv/ready
	$(BIN)/snakemake --cores $(CORES) --config "study=$$STUDY"
	@$(MAKE) --no-print-directory report

report: .venv/ready
	@out=results/$$(sed -n 's/^name: *//p' "$$STUDY") && \
	$(BIN)/snakemake --cores 1 --config "study=$$STUDY" --report "$$out/report.html" && \
	printf '\n%s\n' "report:  $$out/report.html" \
		"tables:  $$out/tables/    figures: $$out/figures/    numbers: $$out/metrics.tsv" "" && \
	cat "$$out/tables/main.md"

test: .venv/ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest -m alone

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or later is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .snakemake
