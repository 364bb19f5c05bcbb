# shellcheck shell=bash disable=SC2034  # vm.sh reads them
# The names that launch/tpu/vm.sh works with; each may also be given in the environment.

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-west4-a}
NAME=${NAME:-distill}

# 16 chips of v5e on four hosts.
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-} # "yes" for machines that may be taken away

# A file system that all hosts mount at SHARED, such as a Filestore share: models, data and output
# are there.
NFS=${NFS:-10.0.0.2:/share}
SHARED=${SHARED:-/mnt/shared}
OUTPUT=${OUTPUT:-$SHARED/runs/llada_8b_gsm8k}

COMMAND=(
    -m launch.distill
    --config=experiments/configs/llada_8b_gsm8k.py
    --config.init="$SHARED/checkpoints/LLaDA-8B-Instruct"
    --config.teacher="$SHARED/checkpoints/LLaDA-8B-Instruct"
    --config.data.data_dir="$SHARED/tensorflow_datasets"
    --config.validation.data_dir="$SHARED/tensorflow_datasets"
    --config.output="$OUTPUT"
    # As experiments/results/plan_full_v5e_16.json fits it.
    --config.mesh.fsdp=8
    --config.mesh.tensor=2
    --config.data.batch_size=32
    --config.optimizer.moments=bfloat16
    --config.save_every=25
)
