#!/usr/bin/env bash
# What cluster/slurm.sh runs on every node: Ray with the node's own CPUs and GPUs, and on the first node the jobs.
#
# Ray's sessions lie in RAY_TMPDIR, since symmetric-run looks there for the session that it has just started; with
# --temp-dir it would not find it, and would wait for the other nodes in vain. It answers 0 when Ray itself did not
# start, so the exit code of the jobs is left in a file.
set -euo pipefail
mkdir -p "$RAY_TMPDIR"
start=(--num-cpus "$SLURM_CPUS_ON_NODE")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
  start+=(--num-gpus "$SLURM_GPUS_ON_NODE")
fi
# shellcheck disable=SC2016
run_node() {
  ray symmetric-run --address "$RAY_HEAD" --min-nodes "$SLURM_JOB_NUM_NODES" "${start[@]}" -- \
    env RAY_ADDRESS="$RAY_HEAD" bash -c 'python -m scripts.run "$@"; echo $? >"$RUN_EXIT_CODE"' run "$@"
}

# A node that asks before the head has entered itself is turned away: it asks again, as one does whose Ray has died.
run_node "$@"
until [ "$SLURM_NODEID" -eq 0 ] || [ -e "$RUN_EXIT_CODE" ]; do
  sleep 2
  run_node "$@"
done
