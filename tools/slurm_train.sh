#!/usr/bin/env bash
# Train under Slurm, one torchrun per machine: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# GPUS (8) is the total, GPUS_PER_NODE (8) and CPUS_PER_TASK (5 per GPU) what a machine gives; SRUN_ARGS goes to srun.
set -euo pipefail
if [ "$#" -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
if [ "$GPUS" -lt "$GPUS_PER_NODE" ]; then
    GPUS_PER_NODE=$GPUS
fi
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "GPUS=$GPUS is no multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
NODES=$((GPUS / GPUS_PER_NODE))
CPUS_PER_TASK=${CPUS_PER_TASK:-$((5 * GPUS_PER_NODE))}
export PORT=${PORT:-29500}
TOOLS="$(cd "$(dirname "$0")" && pwd)"
export GPUS_PER_NODE NODES TOOLS CONFIG

# srun starts one task per machine; the first machine of the allocation is the meeting point.
# shellcheck disable=SC2086
exec srun --partition="$PARTITION" --job-name="$JOB_NAME" --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 \
    --gres="gpu:$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c '
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        exec "${PYTHON:-python}" "$TOOLS/torchrun.py" \
            --nnodes="$NODES" --node_rank="$SLURM_NODEID" --nproc_per_node="$GPUS_PER_NODE" \
            --master_addr="$MASTER_ADDR" --master_port="$PORT" \
            "$TOOLS/train.py" "$CONFIG" --launcher pytorch "$@"
    ' bash "$@"
