#!/usr/bin/env bash
# Whether linearizable reads scale with the nodes that answer them, on one machine: every node gets a small share of a
# core of its own (a cgroup, which needs root), so that nodes added are processors added, and the load has the rest.
# Clusters of one, three and five nodes in turn, read at the leader alone and at all nodes.
#
#   sudo scripts/follower-reads.sh                     a tenth of a core for each node; builds the release executable
#   sudo QUORATE=target/release/quorate scripts/follower-reads.sh 5
#
# The argument is each node's share of a core in percent. Where the load takes all of what is left, the share is too
# large to learn anything: the last line of each cluster says how often its nodes had to wait for their share.
set -Eeuo pipefail
trap 'echo "line $LINENO: an unexpected command failed" >&2' ERR
cd "$(dirname "$0")/.."

SHARE=${1:-10}
PERIOD_US=10000
CLIENTS_PER_NODE=320
SECONDS_EACH=8
ROUNDS=3
KEYS=1000
READY_S=30

if [[ -z ${QUORATE:-} ]]; then
    cargo build --quiet --locked --release --bin quorate
    QUORATE=${CARGO_TARGET_DIR:-target}/release/quorate
fi
QUORATE=$(realpath "$QUORATE")
work=$(mktemp -d "${TMPDIR:-/tmp}/quorate-reads-XXXXXX")
pids=()
groups=()
port=$((20000 + RANDOM % 8000))

cleanup() {
    stop_nodes
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

stop_nodes() {
    local group
    ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
    for group in "${groups[@]}"; do
        until rmdir "$group" 2>/dev/null; do
            sleep 0.1 # until its process is gone
        done
    done
    pids=()
    groups=()
}

limit() { # limit NAME PID: a cgroup with the share, of the first version or the second
    local quota=$((SHARE * PERIOD_US / 100)) group
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        group=/sys/fs/cgroup/$1
        echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
        mkdir "$group"
        echo "$quota $PERIOD_US" >"$group/cpu.max"
    else
        group=/sys/fs/cgroup/cpu/$1
        mkdir "$group"
        echo $PERIOD_US >"$group/cpu.cfs_period_us"
        echo "$quota" >"$group/cpu.cfs_quota_us"
    fi
    groups+=("$group")
    echo "$2" >"$group/cgroup.procs"
}

start_nodes() { # start_nodes COUNT: sets `nodes` and `identity`
    local count=$1 node other peers home="$work/$1"
    mkdir "$home"
    (cd "$home" && "$QUORATE" certs init --cluster reads) >/dev/null
    nodes=()
    for node in $(seq "$count"); do
        (cd "$home" && "$QUORATE" certs issue --node "$node" --out "n$node") >/dev/null
        nodes+=(--node "$node=127.0.0.1:$((port + node))")
    done
    (cd "$home" && "$QUORATE" certs issue --client bench --out bench) >/dev/null
    identity="$home/bench"
    for node in $(seq "$count"); do
        peers=()
        for other in $(seq "$count"); do
            [[ $other == "$node" ]] || peers+=(--peer "$other=127.0.0.1:$((port + other))")
        done
        ((count > 1)) || peers=(--alone)
        "$QUORATE" start --data-dir "$home/d$node" --listen "127.0.0.1:$((port + node))" --cert "$home/n$node" \
            "${peers[@]}" >"$home/n$node.log" 2>&1 &
        pids+=($!)
        disown
    done
    local until=$((SECONDS + READY_S))
    until "$QUORATE" kv put ready yes --cert "$identity" "${nodes[@]}" >/dev/null 2>&1; do
        ((SECONDS <= until)) || { echo "no leader within $READY_S s" >&2; tail -n 3 "$home"/n*.log >&2; exit 1; }
        sleep 0.1
    done
}

read_load() { # read_load WHAT CLIENTS ARGUMENT..
    local what=$1 clients=$2
    shift 2
    printf '%-26s' "$what"
    "$QUORATE" bench get --clients "$clients" --connections 15 --seconds "$SECONDS_EACH" --keys "$KEYS" \
        --cert "$identity" "${nodes[@]}" "$@" | grep -E 'op/s|latency|errors' | tr -s ' \n' ' '
    echo
}

throttled() { # how often the nodes had to wait for their share
    local group
    for group in "${groups[@]}"; do
        awk '/^nr_periods/ { all = $2 } /^nr_throttled/ { printf " %d of %d", $2, all }' "$group/cpu.stat"
    done
}

for count in 1 3 5; do
    start_nodes "$count"
    # Fills the keys with whole cores.
    read_load "warm-up" 16 >/dev/null
    for node in $(seq "$count"); do
        limit "quorate-reads-$$-$node" "${pids[node - 1]}"
    done
    for _ in $(seq $ROUNDS); do
        read_load "nodes: $count, at the leader" $((CLIENTS_PER_NODE * count))
        ((count == 1)) || read_load "nodes: $count, at all" $((CLIENTS_PER_NODE * count)) --spread
    done
    echo "periods waited:$(throttled)"
    stop_nodes
    port=$((port + 10))
done
