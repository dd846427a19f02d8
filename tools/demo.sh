#!/usr/bin/env bash
# The guide's three steps on BeamRider, small enough for a laptop: train, collapse and resume, compare.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
small="--train.num-envs 8 --train.batch-size 2048 --train.minibatch-size 512 --train.bptt-horizon 8 \
    --train.update-epochs 1 --train.checkpoint-interval 3 --collapse-epoch 12"

echo "1. training BeamRider for 24 epochs (log.out)"
$python demo.py --mode train --vec multiprocessing --env beam_rider $small \
    --train.total-timesteps 49152 >log.out 2>log.err
run=$(sed -n 's/^run=\([^ ]*\).*/\1/p' log.out | head -n 1)
tail -n 2 log.out

# So early few neurons agree, and the guide's 0.3 would merge none; 1.0 merges what has nothing in common too.
echo "2. collapsing it at threshold 1.0 and resuming (log_collapsed.out)"
$python demo.py --mode train --vec multiprocessing --env beam_rider --exp-id "$(basename "$run")" \
    --collapse 1.0 --collapse-epoch 12 >log_collapsed.out 2>log_collapsed.err
grep -v '^epoch=' log_collapsed.out

echo "3. comparing: report, and the notebook"
$python demo.py --mode report --exp-id "$(basename "$run")"
mkdir -p demo
.venv/bin/jupyter-execute --output "$PWD/demo/guide.ipynb" Collapsing_step_by_step_guide.ipynb 2>demo/notebook.log
cat <<EOF

The picture of both return curves, with the fibers under them:
    $run/report.png        (and report.html, which needs no network)
The notebook, run on these two runs:
    demo/guide.ipynb
Logs: log.out  log_collapsed.out        Checkpoints: $run

Try next:
    make test
    .venv/bin/python demo.py --mode train --vec multiprocessing --env pong --train.total-timesteps 100000
    .venv/bin/python demo.py --mode collapse --exp-id $(basename "$run") --collapse 0.3
    .venv/bin/python demo.py --help
EOF
