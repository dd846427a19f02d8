#!/usr/bin/env bash
# Collapse a trained run's checkpoint by fibration symmetry, and retrain it: train_dir/<exp>_epoch_<e>_base_<thresholds>
#     bash kcore.sh --exp-name t1 --epoch-idx 340 --linear-thr 0.7 --env cartpole --train.total-timesteps 100000
# Parameters: set here, in the environment, or as flags, which win. Lists ("0.5 0.7") make a grid of runs.
# --kinds original collapsed ablated scratch adds the controls; --help lists all.

exp_name=${exp_name:-}              # name of the run to collapse, in train_dir
epoch_idx=${epoch_idx:-50}          # epoch at which it is collapsed, else the nearest
linear_thr=${linear_thr:-0.7}       # cosine distances, 0 to 2, up to which neurons merge
cnn_thr=${cnn_thr:-0.5}
lstm_thr=${lstm_thr:-1.0}
critic_thr=${critic_thr:-0.8}
target_params=${target_params:-}    # in place of thresholds: parts of the parameters to keep
train_dir=${train_dir:-train_dir}   # folder of the runs
env=${env:-}                        # environment of the run; empty: as it was trained
seeds=${seeds:-}                    # seeds of the retraining; empty: the run's own
kinds=${kinds:-collapsed}           # of original, collapsed, ablated, scratch
jobs=${jobs:-1}                     # trainings at once

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -n "${PYTHON:-}" ]; then python=$PYTHON
elif [ -n "${VIRTUAL_ENV:-}" ]; then python=$VIRTUAL_ENV/bin/python
elif [ -x "$here/.venv/bin/python" ]; then python=$here/.venv/bin/python
else python=python3; fi

export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$here/tools/kcore.py" \
    ${exp_name:+--exp-name "$exp_name"} --epoch-idx "$epoch_idx" --linear-thr "$linear_thr" --cnn-thr "$cnn_thr" \
    --lstm-thr "$lstm_thr" --critic-thr "$critic_thr" ${target_params:+--target-params "$target_params"} \
    --train-dir "$train_dir" ${env:+--env "$env"} ${seeds:+--seeds "$seeds"} --kinds "$kinds" --jobs "$jobs" "$@"
