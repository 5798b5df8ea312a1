# Everything here works on a machine with Python >= 3.11 and make.
PYTHON ?= python3
SOURCES = $(wildcard *.py runtime/*.py runtime/backends/*.py evaluation/*.py profiling/*.py bundles/*/manifest.json)
PIP = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check lint types wheel-test system clean

demo: .venv-runtime/done  ## encode and decode the embedded face with the runtime alone; writes demo.png
	.venv-runtime/bin/stcq demo -o demo.png

test: .venv/done  ## all tests, on two CPUs
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

check: lint types test wheel-test  ## what CI runs

lint: .venv/done
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/done  ## the root is the package, so mypy sees it through a link named stcq
	root=$$(mktemp -d) && ln -s "$(CURDIR)" $$root/stcq && \
	MYPYPATH=$$root .venv/bin/mypy --no-namespace-packages -p stcq; status=$$?; rm -r $$root; exit $$status

wheel-test: .venv/done  ## the wheel in a fresh environment without torch, onnx or openvino
	rm -rf build
	.venv/bin/python tests/wheel/check_wheel.py

.venv-runtime/done: pyproject.toml constraints.txt $(SOURCES)
	rm -rf build  # setuptools would pack what an older build left there
	$(PYTHON) -m venv .venv-runtime
	.venv-runtime/bin/python $(PIP) .
	touch $@

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) --editable '.[dev]'
	touch $@

system:  ## Debian packages that some tests use (a real broker, browser, database); without them those tests are skipped
	apt-get update -q && apt-get install -y -q --no-install-recommends mosquitto chromium postgresql

clean:
	rm -rf .venv .venv-runtime build dist *.egg-info demo.png
