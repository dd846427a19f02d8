#!/usr/bin/env bash
# Plain `pip install -e .` on Python 3.11, beside PufferLib's own pins: it must step, train and collapse, and
# say nothing on stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/plain_pip.sh

"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -qq --no-compile -e . # what is imported is compiled when it is

quietly() { # run demo.py; show what it wrote if it failed or complained
    if ! OMP_NUM_THREADS=1 "$scratch/venv/bin/python" demo.py "$@" --train.data-dir "$scratch/runs" \
        >"$scratch/log.out" 2>"$scratch/log.err" || [ -s "$scratch/log.err" ]; then
        echo "failed, or wrote to stderr: demo.py $*"
        cat "$scratch/log.out" "$scratch/log.err"
        exit 1
    fi
    tail -n 1 "$scratch/log.out"
}

small="--train.num-envs 4 --train.batch-size 512 --train.minibatch-size 128 --train.bptt-horizon 8"
quietly --mode train --vec serial --env cartpole $small --train.total-timesteps 1024
quietly --mode train --vec serial --env cartpole --collapse 0.3 --collapse-epoch 2 --train.total-timesteps 1536
quietly --mode train --vec multiprocessing --env beam_rider $small --train.total-timesteps 512 --train.update-epochs 1
ls "$scratch"/runs/cartpole-*/collapsed_model_thr_03_000002/cartpole-*/model_000003.pt
