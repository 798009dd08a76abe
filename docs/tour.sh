#!/usr/bin/env bash
# The tour of docs/tour.md, from the top of the repository.
set -euo pipefail
python run.py agent=beer env=gym/Pendulum-v1 train.total_steps=5000 train.warmup_steps=1000 eval.every=1000 seeds=2 train.keep_replay=true
python run.py mode=runs                                   # what there is
python run.py mode=evaluate run_dir=latest eval.episodes=5
python run.py agent=beer env=gym/Pendulum-v1 train.total_steps=10000 train.warmup_steps=1000 eval.every=1000 seeds=2 train.keep_replay=true
python run.py agent=ddpg env=gym/Pendulum-v1 train.total_steps=10000 train.warmup_steps=1000 eval.every=1000 seeds=2
python run.py mode=runs env=gym/Pendulum-v1               # BEER and DDPG, side by side
python run.py mode=video run_dir=models/cartpole-swingup out=films
python run.py mode=export run_dir=latest
