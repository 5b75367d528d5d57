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
ADDRESS=${MASTER_ADDR:-127.0.0.1}
if [ "$NNODES" = 1 ]; then DEFAULT_RESTARTS=3; else DEFAULT_RESTARTS=0; fi
RESTARTS=${MAX_RESTARTS:-$DEFAULT_RESTARTS}
if [ "$RESTARTS" = 0 ]; then
    MEETING=(--node_rank="${NODE_RANK:-0}" --master_addr="$ADDRESS" --master_port="${PORT:-29500}")
else
    # The plain way to meet keeps one store for all attempts, in which PyTorch 2.11 does not tell them apart: restarted
    # processes may find the addresses of the dead ones and wait for them for ever. See also torchrun.py.
    MEETING=(--rdzv-backend=c10d --rdzv-endpoint="$ADDRESS:${PORT:-29500}" --rdzv-id="${PORT:-29500}")
    if [ "$NNODES" = 1 ]; then MEETING+=(--local-addr="$ADDRESS"); fi
fi
exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="$NNODES" --nproc_per_node="$GPUS" "${MEETING[@]}" --max-restarts="$RESTARTS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
