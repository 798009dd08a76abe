#!/usr/bin/env bash
# The tour of docs/tour.md, from the top of the repository: bash docs/tour.sh. Sizes may be given: STEPS=1000 bash ...
set -euo pipefail
RUN=${RUN:-python run.py}
STEPS=${STEPS:-5000} MORE=${MORE:-10000} WARMUP=${WARMUP:-1000} EVERY=${EVERY:-1000} FILM=${FILM:-cartpole-swingup}
STOP_AT=${STOP_AT:-$EVERY}

# train; after the evaluation at step STOP_AT it is stopped, as by Ctrl-C
$RUN agent=beer env=gym/Pendulum-v1 seeds=2 train.total_steps=$STEPS train.warmup_steps=$WARMUP eval.every=$EVERY train.keep_replay=true ${EXTRA:-} &
until grep -qs "^$STOP_AT," runs/gym/Pendulum-v1/beer-*/eval.csv || ! kill -0 $! 2>/dev/null; do sleep 0.2; done
kill -TERM $! 2>/dev/null || true
wait $! || true
# go on: the same command
$RUN agent=beer env=gym/Pendulum-v1 seeds=2 train.total_steps=$STEPS train.warmup_steps=$WARMUP eval.every=$EVERY train.keep_replay=true ${EXTRA:-}
# look
$RUN mode=runs
$RUN mode=evaluate run_dir=latest eval.episodes=5
# extend: the same command with more steps
$RUN agent=beer env=gym/Pendulum-v1 seeds=2 train.total_steps=$MORE train.warmup_steps=$WARMUP eval.every=$EVERY train.keep_replay=true ${EXTRA:-}
# compare
$RUN agent=ddpg env=gym/Pendulum-v1 seeds=2 train.total_steps=$MORE train.warmup_steps=$WARMUP eval.every=$EVERY train.keep_replay=true ${EXTRA:-}
$RUN mode=runs env=gym/Pendulum-v1 out=runs/by-seed
$RUN mode=report runs=runs/gym/Pendulum-v1 out=report
# film, and take along
$RUN mode=video run_dir=models/$FILM out=films
$RUN mode=export run_dir=latest
