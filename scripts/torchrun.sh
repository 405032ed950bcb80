#!/usr/bin/env bash
# All GPUs of one machine (or PROCESSES CPU processes), one process each:
#     scripts/torchrun.sh model=gpt2_modern trainer.batch_size=480 trainer.grad_accum=5
# The batch size is that of a step, over all processes. Only the first process writes the run directory.
set -euo pipefail
processes=${PROCESSES:-$(python -c 'import torch; print(max(torch.cuda.device_count(), 1))')}
exec torchrun --standalone --nproc-per-node "$processes" -m recsysml train "$@"
