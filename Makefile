PYTHON ?= python3
PIP_INSTALL = -m pip install -qq --disable-pip-version-check

SOURCES := $(shell find src -type f -not -name '*.pyc')
CHECKED = src tests benchmarks recipes

# Idle OpenMP threads that spin slow a small machine down many times.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo docs test test-tflite format page clean python-version debian-packages

help:
	@echo "make demo     find animals in a bundled picture (base install, no torch)"
	@echo "make test     format, lint, types, layers and tests (installs the dev extra)"
	@echo "make docs     build the documents as a site, into build/site"
	@echo "make test-tflite  the tests of the TFLite export, in an environment of their own"
	@echo "make format   format the code and mend what the linter can mend"
	@echo "make page     build the browser page of pocketdet serve (needs node)"
	@echo "make clean    remove the environments and caches"
	@echo "PYTHON=...    the Python to use, 3.11 or newer (now: $(PYTHON))"

demo: .venv-demo/.installed
	@.venv-demo/bin/pocketdet demo

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict
	@echo "the site is build/site/index.html"

test: .venv/.installed .venv-oracle/.installed debian-packages
	.venv/bin/ruff format --check $(CHECKED)
	.venv/bin/ruff check $(CHECKED)
	.venv/bin/mypy --strict src
	.venv/bin/lint-imports
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile
	$(MAKE) --no-print-directory test-tflite

test-tflite: .venv-tflite/.installed
	.venv-tflite/bin/python -m pytest tests/export/test_tflite_file.py

page:
	cd web && npm install --no-audit --no-fund --no-package-lock && npm run build

format: .venv/.installed
	.venv/bin/ruff check --fix $(CHECKED)
	.venv/bin/ruff format $(CHECKED)

.venv-demo/.installed: pyproject.toml README.md LICENSE $(SOURCES) | python-version
	@test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	@echo "Installing pocketdet without torch into .venv-demo ..."
	@.venv-demo/bin/python $(PIP_INSTALL) --no-compile .
	@touch $@

.venv/.installed: pyproject.toml | python-version
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "Installing pocketdet with all that its tests need into .venv (5.6 GB with a CUDA build of torch) ..."
	@.venv/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# Tests skip where there is no Chromium, which opens the pages, and no RTSP server, which plays a camera. A machine of
# CI's own gets Debian's; no other is touched.
debian-packages:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	! { command -v chromedriver && command -v rtsp-server-perl; } >/dev/null; then \
	export DEBIAN_FRONTEND=noninteractive; \
	{ timeout 120 apt-get update -qq && timeout 240 apt-get install -y -qq --no-install-recommends \
	chromium chromium-driver rtsp-server-perl; } >&2 || \
	echo "Chromium and rtsp-server-perl could not be installed: their tests are skipped" >&2; fi

# What tests compare darknet files with: OpenCV 5, which training uses, no longer reads them.
.venv-oracle/.installed: | python-version
	@test -x .venv-oracle/bin/python || $(PYTHON) -m venv .venv-oracle
	@echo "Installing OpenCV 4.14, which reads darknet files, into .venv-oracle (260 MB) ..."
	@.venv-oracle/bin/python $(PIP_INSTALL) 'opencv-python-headless==4.14.*'
	@touch $@

# The converter to TFLite asks for other versions than the rest has, of packages that converting a detector never imports
# (transformers, xdsl and 40 more). An environment on top of .venv has the few that it does import.
.venv-tflite/.installed: pyproject.toml .venv/.installed | python-version
	@test -x .venv-tflite/bin/python || $(PYTHON) -m venv --without-pip .venv-tflite
	@site() { $$1 -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	echo "import site; site.addsitedir('$$(site .venv/bin/python)')" > $$(site .venv-tflite/bin/python)/venv.pth
	@echo "Installing the converter to TFLite into .venv-tflite (700 MB) ..."
	@.venv-tflite/bin/python $(PIP_INSTALL) --no-deps --no-compile 'litert-torch==0.10.*' 'litert-converter==0.5.*' \
	'ai-edge-quantizer==0.10.*' 'jax==0.10.*' 'jaxlib==0.10.*' opt_einsum immutabledict
	@touch $@

python-version:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "pocketdet needs Python 3.11 or newer, and '$(PYTHON)' is not; name one: make PYTHON=python3.12 ..." >&2; exit 2; }

clean:
	rm -rf .venv .venv-demo .venv-oracle .venv-tflite build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache demo.jpg
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
