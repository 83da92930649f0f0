#!/bin/bash
# One training on GPUs of several machines, put back into the queue when its time is up:
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 docs/slurm.sh experiment=ptb
# A task a GPU; the words go to train.py. On processors alone: TRAINER=ddp_cpu, without --gpus-per-node.
#SBATCH --job-name=unroll
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
#SBATCH --signal=USR1@120

set -euo pipefail
cd "${UNROLL:-$SLURM_SUBMIT_DIR}" # the checkout; by default where sbatch was called
# shellcheck disable=SC1091
[[ -f .venv/bin/activate ]] && source .venv/bin/activate
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# the same directory in every attempt, so that resume=true finds what the last one saved
run=runs/slurm/$SLURM_JOB_ID
exec ${SRUN-srun} python train.py "trainer=${TRAINER:-ddp}" "trainer.num_nodes=$SLURM_NNODES" \
    "trainer.devices=$SLURM_NTASKS_PER_NODE" "hydra.run.dir=$run" resume=true "$@"
