# Two commands do all the set-up: `make demo` and `make test`.

VENV := .venv
FIT := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(FIT)' 2>/dev/null && echo "$$python" && break; done)

.PHONY: demo test environment check lock clean

demo: environment  ## phantom cohort → prep → train → test → report, in ./demo
	$(VENV)/bin/clotseg demo

test: environment  ## all tests; a quick round is `.venv/bin/pytest -m "not slow"`
	$(VENV)/bin/pytest --numprocesses 2 --dist loadfile

check: environment  ## style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

environment: $(VENV)/ready  ## the virtual environment in .venv

$(VENV)/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "clotseg needs Python 3.11, 3.12 or 3.13; found none. \
	Install one, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 5; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock:  ## renew requirements.lock; needs uv
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock

clean:  ## remove the environment and the demo
	rm -rf $(VENV) demo
