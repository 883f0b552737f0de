#!/usr/bin/env bash
# Chain what is left of a run over Slurm jobs: one job a stage of a round, each after the one before it has ended well.
#
#   ratchet run RECIPE.yaml --name RUN --until STAGE          # once, on one node: its recipe and problems on the shared disk
#   scripts/slurm/chain.sh RUN [--nodes 2] [--gpus 8] [--launch ACCELERATE.yaml] [--sbatch "--partition gpu"] [--dry-run]
#
# Every job is `accelerate launch ... -m pipeline stage RUN STAGE --round N`: rank 0 takes the run's lock and commits, all
# ranks claim chunks. A job that dies is started again by Slurm (--requeue) or by calling this script again, and goes on at
# the first chunk, or trainer checkpoint, that is not done. --dry-run prints the sbatch commands and submits nothing.
# PYTHON names the interpreter of the jobs.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit "$1"; }
refuse() { echo "chain.sh: $1" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nodes=1 gpus=0 launch="" sbatch="" dry=""
[[ $# -ge 1 ]] || usage 2
[[ $1 == -h || $1 == --help ]] && usage 0
run=$1; shift
while [[ $# -gt 0 ]]; do
  if [[ $1 == --dry-run ]]; then dry=1; shift; continue; fi
  [[ $# -ge 2 && -n $2 ]] || refuse "$1 needs a value, or is unknown"
  case $1 in
    --nodes) nodes=$2 ;;
    --gpus) gpus=$2 ;;
    --launch) launch=$2 ;;
    --sbatch) sbatch=$2 ;;
    *) refuse "unknown option $1" ;;
  esac
  shift 2
done
[[ $nodes =~ ^[1-9][0-9]*$ && $gpus =~ ^[0-9]+$ ]] || refuse "--nodes $nodes --gpus $gpus: not numbers"
[[ -z $launch || -f $launch ]] || refuse "--launch $launch: no such file"
left=$("${PYTHON:-python}" "$here/stages.py" "$run")
[[ -n $left ]] || { echo "$run: nothing is left to do"; exit 0; }

previous=""
submit() {  # round, stage
  local words=(sbatch --parsable --requeue --job-name "$run-r$1-$2" --nodes "$nodes" --ntasks-per-node 1)
  [[ $gpus -gt 0 ]] && words+=(--gpus-per-node "$gpus")
  [[ -n $previous ]] && words+=(--dependency "afterok:$previous" --kill-on-invalid-dep yes)
  # shellcheck disable=SC2206  # the user's own options, split as the shell would
  words+=($sbatch --output "data/$run/logs/slurm-%j-$2.log" "$here/stage.sbatch" "$run" "$2" "$1" "$gpus")
  [[ -n $launch ]] && words+=("$launch")
  if [[ -n $dry ]]; then
    printf '%q ' "${words[@]}"; echo
    previous="JOB_OF_$1_$2"
    return
  fi
  previous=$("${words[@]}")
  previous=${previous%%;*}  # on a federation: "id;cluster"
  echo "round $1, $2: job $previous"
}

[[ -n $dry ]] || mkdir -p "data/$run/logs"
while read -r round stage; do submit "$round" "$stage"; done <<< "$left"
