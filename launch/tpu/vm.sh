#!/usr/bin/env bash
# Distils on a slice of TPU VMs over gcloud; names and the command: launch/tpu/settings.sh.
#
#   launch/tpu/vm.sh create            queue for the slice and wait until it is there
#   launch/tpu/vm.sh install           mount the shared folder, copy this checkout, install it
#   launch/tpu/vm.sh run [FLAG ...]    start, or continue, on all hosts; flags go to the command
#   launch/tpu/vm.sh logs              follow the logs of all hosts
#   launch/tpu/vm.sh stop              finish the step, save and leave, on all hosts
#   launch/tpu/vm.sh resume [FLAG ...] delete what is left of the slice, then create, install, run
#   launch/tpu/vm.sh delete            give the slice back; the shared folder stays
#
# What happens when, and how to mend it: docs/runbook.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/tpu/settings.sh

queued() { # VERB [FLAG ...]
    gcloud compute tpus queued-resources "$1" "$NAME" \
        --project="$PROJECT" --zone="$ZONE" "${@:2}"
}

on() { # WORKER|all COMMAND
    gcloud compute tpus tpu-vm ssh "$NAME" \
        --project="$PROJECT" --zone="$ZONE" --worker="$1" --command="$2"
}

create() {
    queued create --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
        --runtime-version="$RUNTIME" ${SPOT:+--spot}
    local state=
    while [[ $state != ACTIVE ]]; do
        sleep "${POLL_SECONDS:-30}"
        state=$(queued describe --format="value(state.state)")
        echo "$(date '+%T') $NAME: $state"
        case $state in FAILED | SUSPENDED) return 1 ;; esac
    done
}

install() {
    local archive
    archive=$(mktemp --suffix=.tar.gz)
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:cd4lm_jax.tar.gz" \
        --project="$PROJECT" --zone="$ZONE" --worker=all
    rm "$archive"
    # The machines' own Python is older than 3.11; uv brings one.
    on all "set -e
        sudo mkdir -p $SHARED
        mountpoint -q $SHARED || {
            sudo apt-get install -y -q nfs-common
            sudo mount -t nfs $NFS $SHARED
        }
        mkdir -p cd4lm_jax
        tar -xzf cd4lm_jax.tar.gz -C cd4lm_jax
        cd cd4lm_jax
        python3 -m pip install --user --quiet uv
        python3 -m uv venv --quiet --clear --python 3.12
        python3 -m uv pip install --quiet '.[tpu]'"
}

run() {
    local command
    command=$(printf '%q ' "${COMMAND[@]}" "$@")
    # It must outlive the connection: a session of its own, its number kept for stop.
    on all "set -e
        cd cd4lm_jax
        mkdir -p $OUTPUT/logs
        setsid nohup .venv/bin/python $command \
            </dev/null >>$OUTPUT/logs/\$(hostname).log 2>&1 &
        echo \$! >run.pid"
}

case ${1:-} in
create) create ;;
install) install ;;
run) run "${@:2}" ;;
logs) on 0 "tail -n 20 -F $OUTPUT/logs/*.log" ;;
stop) on 0 "kill -TERM \$(cat cd4lm_jax/run.pid)" ;; # the other hosts follow
delete) queued delete --force --quiet ;;
resume)
    queued delete --force --quiet || true
    create
    install
    run "${@:2}"
    ;;
*)
    sed -n '2,/^# What/p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'
    exit 2
    ;;
esac
