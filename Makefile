# Each target works as the very first command after a clone; setup does nothing the second time.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
IMAGE  ?= debian-12
IMAGES ?=
JOBS   ?= 1
STRICT ?=

# A membership of the group libvirt that setup has just given is not in this session yet.
in_group = if [ "$$(id -u)" -eq 0 ] || id -nG | grep -qw libvirt; then $(1); else sg libvirt -c "$(1)"; fi

.PHONY: setup drill test scenarios check bench clean help

help: ## What there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: ## Packages, libvirt and the Python environment
	@sh harness/kdump_harness/vm/setup_host.sh
	@$(MAKE) --no-print-directory $(VENV)/.done

$(VENV)/.done: pyproject.toml
	@echo "setup: making the Python environment in $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

drill: setup ## One full drill of IMAGE (debian-12)
	@$(call in_group,$(BIN)/kdump-harness drill '$(IMAGE)')

test: setup ## The quick tests: no guest, no root, no network
	@$(BIN)/pytest tests -n auto --dist worksteal

# Without IMAGES each scenario runs on its own images, or on debian-12. The quotes keep globs from the shell.
scenarios: setup ## Real guests, real panics: IMAGES="debian-* rocky-9" JOBS=2 STRICT=1 (no image, no success)
	@$(call in_group,$(BIN)/pytest scenarios $(foreach image,$(IMAGES),--image '$(image)') \
		$(if $(filter-out 1,$(JOBS)),-n '$(JOBS)') $(if $(filter-out 0 no,$(STRICT)),--strict-images))

check: setup ## Formatting, lint, types, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest tests -n auto --dist worksteal

bench: setup ## The figures
	@sh harness/kdump_harness/vm/setup_host.sh benchmarks/host.toml
	@$(foreach bench,$(sort $(wildcard benchmarks/*.py)),\
		echo '== $(bench)' && $(call in_group,$(BIN)/python $(bench)) &&) true

clean: ## What dead runs left behind
	@$(call in_group,$(BIN)/kdump-harness clean)
