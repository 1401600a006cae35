#!/usr/bin/env bash
#SBATCH --job-name=tripletail
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#
# One recipe on an allocation: Ray on every node, the jobs on the first, everything stopped at the end.
#
#   sbatch [--nodes N] [--gpus-per-node G] cluster/slurm.sh RECIPE --run DIR
#
# Submit from the checkout, on a file system that all nodes see, after `bash scripts/setup.sh`; DIR must be on one too.
# --exclusive because a node's CPUs are all Ray's.
set -euo pipefail
recipe=${1:?usage: sbatch cluster/slurm.sh RECIPE --run DIR}
shift
cd -- "${SLURM_SUBMIT_DIR:?start this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH" HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
export RAY_DATA_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false

# The nodes of a Slurm cluster are shared ground: whoever reaches Ray's ports may run code as you, so ask for a token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RUN_EXIT_CODE="$PWD/.ray-exit-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$RUN_EXIT_CODE"; srun --ntasks-per-node=1 rm -rf "$RAY_TMPDIR"' EXIT
rm -f "$RUN_EXIT_CODE"  # of a try before, where the job was put in the queue again
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{print $1}')
export RAY_HEAD="$head:$((20000 + SLURM_JOB_ID % 10000))" RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

# --wait: the other nodes end 10 s after the first, not a minute later when they miss its Ray; srun answers with theirs.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --wait=10 \
  bash cluster/slurm_node.sh --config "$recipe" "$@" || true
code=$(cat "$RUN_EXIT_CODE" 2>/dev/null || echo 1)
if [ "$code" -ne 0 ]; then
  echo "slurm: the jobs did not come to their end; the lines above say why, and the same sbatch goes on from there" >&2
fi
exit "$code"
