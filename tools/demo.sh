#!/usr/bin/env bash
# What a collapse does, in minutes: a policy that plays perfectly at 5% of its size, then the guide's three steps.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
mkdir -p demo
rm -rf demo/train_dir demo/*.out demo/*.txt demo/*.log demo/*.html
trap 'echo "make demo: the step above failed; what it said is in demo/ and log*.err" >&2' ERR

run() { # run FILE COMMAND..: show the command, keep what it prints
    local out=$1
    shift
    echo "   \$ $*"
    "$@" >"$out" 2>&1 || { tail -n 5 "$out" >&2; return 1; }
}

cat <<EOF
Part 1: does a policy at 5% of its size still play?  (demo/train_dir)

1. train CartPole with an LSTM, until it plays perfectly
EOF
train=($python demo.py --mode train --layout metta --run cartpole --env cartpole --base.rnn-name Recurrent
    --vec serial --train.threads 1 --train.batch-size 8192 --train.total-timesteps 163840
    --train.data-dir demo/train_dir)
if [ -t 1 ]; then # a person watches
    "${train[@]}"
else
    run demo/cartpole.out "${train[@]}"
    grep -e "^epoch=[0-9]*[05] " demo/cartpole.out | cut -d " " -f 1-4 | sed 's/^/   /'
fi

echo "2. collapse it to 5% of its parameters, and train it on, beside the original and a random ablation"
echo "   of the same widths"
run demo/kcore.out bash kcore.sh --exp-name cartpole --epoch-idx 20 --target-params 0.05 --train-dir demo/train_dir \
    --kinds original collapsed ablated --jobs 2 --track none --vec serial --train.threads 1 \
    --train.total-timesteps 204800
grep "^done" demo/kcore.out | sed 's/^/   /'

echo "3. play each as it was before it was trained on"
for kind in original base_params0.05 ablationsrandom_params0.05; do
    file=$(ls demo/train_dir/cartpole_epoch_20_$kind/*/checkpoints/*__e20__*__sc0.pt)
    run "demo/played_${kind%_*}.txt" $python demo.py --mode eval --vec serial --episodes 32 --eval-model-path "$file"
    sed 's/.* env=/   env=/' "demo/played_${kind%_*}.txt"
done

cat <<EOF

Part 2: the guide's three steps, on BeamRider, short  (experiments)

1. train
EOF
small="--train.num-envs 8 --train.batch-size 2048 --train.minibatch-size 512 --train.bptt-horizon 8
    --train.update-epochs 1 --train.checkpoint-interval 3"
three=($python demo.py --mode train --vec multiprocessing --env beam_rider)
echo "   \$ ${three[*]} ... > log.out 2> log.err"
"${three[@]}" $small --collapse-epoch 3 --train.total-timesteps 18432 >log.out 2>log.err || { tail -n 5 log.err >&2; false; }
name=$(basename "$(sed -n 's/^run=\([^ ]*\).*/\1/p' log.out | head -n 1)")
tail -n 2 log.out | sed 's/^/   /'

echo "2. collapse and resume.  So early hardly any neurons agree: at the guide's 0.3 nothing merges, and the"
echo "   collapse says which thresholds would merge some; here 1, calibrated on recorded states"
again=("${three[@]}" --exp-id "$name" --collapse 1 --collapse-epoch 3)
echo "   \$ ${again[*]} > log_collapsed.out 2> log_collapsed.err"
"${again[@]}" --collapse.calibrate 2048 >log_collapsed.out 2>log_collapsed.err ||
    { tail -n 5 log_collapsed.err >&2; false; }
grep -e "^all parameters" -e "^on states" log_collapsed.out | sed 's/^/   /'

echo "3. compare: the report, and the notebook"
run demo/report.out $python demo.py --mode report --exp-id "$name"
run demo/notebook.log .venv/bin/jupyter-execute --output "$PWD/demo/guide.ipynb" Collapsing_step_by_step_guide.ipynb

echo
$python tools/demo_page.py "experiments/$name"
cat <<EOF

The page that shows both parts:          demo/index.html
The notebook, run on part 2's two runs:  demo/guide.ipynb
Checkpoints, logs and reports:           demo/train_dir  experiments/$name

Try next:
    $python demo.py --mode train --vec multiprocessing --env pong --train.total-timesteps 100000
    $python demo.py --mode collapse --exp-id $name --collapse auto --collapse.target-params 0.2
    $python demo.py --help
EOF
