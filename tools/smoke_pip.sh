#!/usr/bin/env bash
# Plain `pip install -e .` on Python 3.11, beside PufferLib's own pins: it must import, step and train.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH VIRTUAL_ENV

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=$(command -v python3.11 || command -v python3)
if [ -z "${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}" ]; then
    export PIP_FIND_LINKS=https://download.pytorch.org/whl/cpu/torch/ # a CPU build is enough here
fi

"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet -e .
run() { OMP_NUM_THREADS=1 "$scratch/venv/bin/python" "$@"; }

run - <<'PY'
from pufferlib_kcore.environments import make_creator

for name, shape in {"cartpole": (4,), "beam_rider": (1, 105, 80)}.items():
    env = make_creator(name)()
    observation, _ = env.reset(seed=1)
    assert observation.shape == shape, observation.shape
    env.step(env.action_space.sample())
PY

run demo.py --mode train --vec serial --env cartpole --train.data-dir "$scratch/runs" \
    --train.num-envs 4 --train.batch-size 512 --train.minibatch-size 128 --train.total-timesteps 1024 \
    > "$scratch/log.out" 2> "$scratch/log.err" || { cat "$scratch/log.out" "$scratch/log.err"; exit 1; }
if [ -s "$scratch/log.err" ]; then
    echo "noise on stderr:" && cat "$scratch/log.err" && exit 1
fi
grep -c '^epoch=' "$scratch/log.out" | grep -qx 2 || { cat "$scratch/log.out"; exit 1; }
ls "$scratch"/runs/cartpole-*/model_000002.pt
