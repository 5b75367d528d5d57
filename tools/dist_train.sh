#!/usr/bin/env bash
# Train on several GPUs of one or more machines: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT. PYTHON chooses the interpreter.
# When a process dies, all are started again from the last checkpoint, MAX_RESTARTS times (3; 0 on several machines).
set -euo pipefail
if [ "$#" -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
NNODES=${NNODES:-1}
if [ "$NNODES" = 1 ]; then DEFAULT_RESTARTS=3; else DEFAULT_RESTARTS=0; fi
exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="$NNODES" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$GPUS" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --max-restarts="${MAX_RESTARTS:-$DEFAULT_RESTARTS}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
