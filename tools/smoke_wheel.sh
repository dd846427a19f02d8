#!/usr/bin/env bash
# The wheel, in an environment of its own and far from the clone: the engine beside torch, NumPy 2 and SciPy alone;
# then, with all that it asks for, train, collapse, resume and report by the command kcore.
set -euo pipefail
cd "$(dirname "$0")/.."
clone=$PWD
source tools/plain_pip.sh

"$python" -m venv "$scratch/venv"
pip="$scratch/venv/bin/pip"
cp -r pyproject.toml setup.py README.md LICENSE pufferlib_kcore "$scratch/" # a build leaves its traces there
"$pip" wheel -qq --no-deps -w "$scratch/wheels" "$scratch"
cd "$scratch/wheels"

"$pip" install -qq --no-compile "torch<=2.13.0" numpy scipy
"$pip" install -qq --no-compile --no-deps ./*.whl
OMP_NUM_THREADS=1 "$scratch/venv/bin/python" "$clone/tools/engine_alone.py"

"$pip" install -qq --no-compile ./*.whl # NumPy 1, as PufferLib pins it
OMP_NUM_THREADS=1 "$scratch/venv/bin/python" "$clone/tools/engine_alone.py"
kcore() {
    OMP_NUM_THREADS=1 "$scratch/venv/bin/kcore" "$@" >log.out 2>log.err || { cat log.out log.err; exit 1; }
    tail -n 1 log.out
}
small="--train.num-envs 4 --train.batch-size 512 --train.minibatch-size 128 --train.bptt-horizon 8"
kcore --mode train --vec serial --env cartpole $small --train.total-timesteps 1024 --exp-id a
kcore --mode train --vec serial --env cartpole --exp-id a --resume --train.total-timesteps 1536
kcore --mode collapse --exp-id a --collapse 0.3
kcore --mode report --exp-id a
find experiments -name "*.html" | grep -q . || { echo "no report"; exit 1; }
echo "the wheel: ok"
