#!/usr/bin/env bash
# tests/puffer3 in an environment of its own, .venv-puffer3: PufferLib 3.0.0, built here without CUDA, without its
# own environments and without downloads of theirs. Needs Python 3.10 to 3.12 and g++; a few minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
clone=$PWD
source tools/plain_pip.sh

if [ ! -e .venv-puffer3/.ready ]; then
    "$python" -m venv .venv-puffer3
    pip=$clone/.venv-puffer3/bin/pip
    "$pip" install -qq "torch==2.13.0" "numpy<2" scipy "setuptools<81" wheel Cython pybind11 ninja pytest
    "$pip" install -qq gymnasium==0.29.1 gym==0.23.0 pettingzoo==1.24.1 imageio rich rich-argparse pyro-ppl psutil \
        pynvml cloudpickle
    "$pip" install -qq --no-deps heavyball==1.7.2
    echo "import builtins; builtins.c_extension_paths = []" >"$scratch/sitecustomize.py" # its setup.py asks for it
    without_nvcc=$(tr : '\n' <<<"$PATH" | while read -r d; do [ -x "$d/nvcc" ] || echo "$d"; done | paste -sd:)
    (cd "$scratch" && PATH="$clone/.venv-puffer3/bin:$without_nvcc" PYTHONPATH=$scratch NO_OCEAN=1 \
        "$pip" wheel -qq --no-deps --no-build-isolation --no-binary pufferlib -w "$scratch" pufferlib==3.0.0)
    "$pip" install -qq --no-deps "$scratch"/pufferlib-3.0.0*.whl
    touch .venv-puffer3/.ready
fi
cd "$scratch" # PufferLib 3 leaves a link to its resources where it is imported
OMP_NUM_THREADS=1 PYTHONPATH=$clone "$clone/.venv-puffer3/bin/python" -m pytest -q -c /dev/null --rootdir "$clone" \
    -p no:cacheprovider "$clone/tests/puffer3"
