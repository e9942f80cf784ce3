# Each target works as the first command after a clone; setup has no effect the second time.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
IMAGE  ?= debian-12
IMAGES ?=
JOBS   ?= 1
STRICT ?=
ARCH   ?=
ONLY   ?= *
STACKS ?=
BENCHES := $(sort $(wildcard benchmarks/$(ONLY).py))

# Setup may have added the user to the group libvirt; the current session does not have the new membership yet.
in_group = if [ "$$(id -u)" -eq 0 ] || id -nG | grep -qw libvirt; then $(1); else sg libvirt -c "$(1)"; fi

.PHONY: setup drill test pages scenarios check release bench docs clean help

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: ## Install packages (ARCH=arm64: also for guests of arm64), start libvirt, make the Python environment
	@sh harness/kdump_harness/vm/setup_host.sh $(ARCH:%=harness/kdump_harness/distro/architectures/%.toml)
	@$(MAKE) --no-print-directory $(VENV)/.done

$(VENV)/.done: pyproject.toml
	@echo "setup: making the Python environment in $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

drill: setup ## Drill IMAGE (debian-12) once
	@$(call in_group,$(BIN)/kdump-harness drill '$(IMAGE)')

test: setup ## Run the quick tests: no guest, no root, no network
	@$(BIN)/pytest tests -n auto --dist worksteal

pages: setup ## Look at the pages of reports in headless Chromium (apt-get install chromium)
	@$(BIN)/pytest tests/report/pages_in_chromium.py -q

# Without IMAGES each scenario runs on the images it names, or on debian-12. The quotes protect globs from the shell.
scenarios: setup ## Crash real guests: IMAGES="debian-* rocky-9" JOBS=2 STRICT=1 (missing images are errors)
	@$(call in_group,$(BIN)/pytest scenarios $(foreach image,$(IMAGES),--image '$(image)') \
		$(if $(filter-out 1,$(JOBS)),-n '$(JOBS)') $(if $(filter-out 0 no,$(STRICT)),--strict-images))

check: setup ## Check formatting, lint, types, quick tests, benchmarks (--smoke) and the fixtures of scenarios
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest tests -n auto --dist worksteal
	@$(foreach bench,$(sort $(wildcard benchmarks/*.py)),\
		echo '$(bench) --smoke' && $(BIN)/python $(bench) --smoke >/dev/null &&) true
	@$(BIN)/pytest scenarios --setup-plan -q --image debian-12 >/dev/null
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

release: check drill ## Run all checks and a drill, then build sdist, wheel, .deb and .rpm into dist/
	@$(BIN)/python packaging/build.py

bench: setup ## Run the benchmarks: ONLY=overhead runs one; STACKS=DIR has the sources that messages reads
	@test -n '$(BENCHES)' || { echo "no benchmark benchmarks/$(ONLY).py" >&2; exit 2; }
	@sh harness/kdump_harness/vm/setup_host.sh benchmarks/host.toml
	@$(foreach bench,$(BENCHES),echo '== $(bench)' && $(call in_group,$(BIN)/python $(bench)$(if $(filter %/messages.py,$(bench)), $(STACKS))) &&) true

docs: setup ## Build the documentation as a site in dist/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove the leftovers of stale runs
	@$(call in_group,$(BIN)/kdump-harness clean)
