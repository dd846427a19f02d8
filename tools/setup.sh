#!/usr/bin/env bash
# Set up .venv with uv, from whatever Python 3 with venv and pip is there; arguments are extras: setup.sh wandb
# Where pip knows of locally kept wheels (find-links), uv uses them too; else, without an NVIDIA GPU,
# torch is PyTorch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
unset VIRTUAL_ENV

find_uv() {
    uv --version >/dev/null 2>&1 && { echo uv; return; }
    if ! .uv/bin/uv --version >/dev/null 2>&1; then
        python3 -m venv .uv
        .uv/bin/python -m pip install -qq uv
    fi
    echo .uv/bin/uv
}

find_links() {
    local own="${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}"
    if [ -n "$own" ]; then
        printf %s "$own" | tr -s '[:space:]' ','
    elif [ ! -e /proc/driver/nvidia/version ] && ! nvidia-smi >/dev/null 2>&1; then
        echo https://download.pytorch.org/whl/cpu/torch/
    fi
}

export UV_FIND_LINKS="${UV_FIND_LINKS:-$(find_links)}"
[ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS
echo "setting up .venv"
rm -f uv.lock # it names the places that wheels came from, which may have changed
# Bytecode of all, once: a Python that may not write it (PYTHONDONTWRITEBYTECODE) else compiles torch at each start
"$(find_uv)" sync --compile-bytecode $([ -t 1 ] || echo --quiet) ${@/#/--extra=}
.venv/bin/python -m compileall -q pufferlib_kcore
