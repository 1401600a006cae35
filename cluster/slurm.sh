#!/usr/bin/env bash
#SBATCH --job-name=tripletail
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#
# One recipe on an allocation: Ray on every node, the jobs on the first, everything stopped at the end.
#
#   sbatch [--nodes N] [--gpus-per-node G] cluster/slurm.sh RECIPE --run DIR
#
# Submit from the checkout, on a file system that all nodes see, after `bash scripts/setup.sh`; DIR must be on one too.
# --exclusive because Ray's own clean-up at the end ends every Ray process of yours on these nodes.
set -euo pipefail
recipe=${1:?usage: sbatch cluster/slurm.sh RECIPE --run DIR}
shift
cd -- "${SLURM_SUBMIT_DIR:?start this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
export RAY_DATA_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false

# The nodes of a Slurm cluster are shared ground: whoever reaches Ray's ports may run code as you, so ask for a token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
finished="$PWD/.ray-finished-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$finished"' EXIT
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{print $1}')
address="$head:$((20000 + SLURM_JOB_ID % 10000))"
start=(--num-cpus "$SLURM_CPUS_PER_TASK" --temp-dir "/tmp/ray-$SLURM_JOB_ID")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
  start+=(--num-gpus "$SLURM_GPUS_ON_NODE")
fi

# symmetric-run answers 0 when Ray itself did not start, so the job says in a file that it came to its end.
# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" "${start[@]}" -- \
  env RAY_ADDRESS="$address" bash -c 'done=$1; shift; python -m scripts.run "$@" && : >"$done"' run \
  "$finished" --config "$recipe" "$@"
if [ ! -e "$finished" ]; then
  echo "slurm: the jobs did not come to their end; the lines above say why, and the same sbatch goes on from there" >&2
  exit 1
fi
