#!/usr/bin/env bash
# What cluster/slurm.sh runs on every node: Ray with the node's own CPUs and GPUs, and on the first node the jobs.
#
# Plain `ray start`, for `ray symmetric-run` counts nodes that have died as nodes that are there, lets one that asked too
# early go away, and ends every Ray process of the user's on a node.
set -euo pipefail
mkdir -p "$RAY_TMPDIR"
start=(--block --num-cpus "$SLURM_CPUS_ON_NODE")
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
  start+=(--num-gpus "$SLURM_GPUS_ON_NODE")
fi

if [ "$SLURM_NODEID" -ne 0 ]; then  # a node that asks too early, or whose Ray has died, asks again
  until [ -e "$RUN_EXIT_CODE" ]; do
    ray start --address "$RAY_HEAD" "${start[@]}" >"$RAY_TMPDIR/start.log" 2>&1 || sleep 2
  done
  exit
fi

ray start --head --node-ip-address "${RAY_HEAD%:*}" --port "${RAY_HEAD##*:}" --dashboard-host 127.0.0.1 "${start[@]}" \
  >"$RAY_TMPDIR/start.log" 2>&1 &
ray=$!
export RAY_ADDRESS="$RAY_HEAD"
code=0
python -m cluster.wait_for_nodes "$SLURM_JOB_NUM_NODES" && python -m scripts.run "$@" || code=$?
echo "$code" >"$RUN_EXIT_CODE"
kill "$ray" && wait "$ray" || true
