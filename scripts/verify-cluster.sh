#!/usr/bin/env bash
# Checks a cluster from outside: real processes, real certificates, real kill -9. It knows nothing but
# the command line. Exits non-zero when any check fails, and leaves nothing behind in any case.
#
#   scripts/verify-cluster.sh                          builds and checks the debug executable
#   QUORATE=target/release/quorate scripts/verify-cluster.sh
#   KEEP=1 scripts/verify-cluster.sh                   keeps the folder with the logs
set -Eeuo pipefail
trap 'echo "line $LINENO: an unexpected command failed" >&2' ERR
cd "$(dirname "$0")/.."

# How long any condition may take to come true. Everything here takes well under a second; the rest is
# for a busy machine.
DEADLINE_S=20
POLL_S=0.05

if [[ -z ${QUORATE:-} ]]; then
    # With a test beside it, so that features are those of `cargo test` and nothing is compiled twice.
    cargo build --quiet --locked --workspace --bin quorate --test bad_input
    QUORATE=${CARGO_TARGET_DIR:-target}/debug/quorate
fi
QUORATE=$(realpath "$QUORATE")
work=$(mktemp -d "${TMPDIR:-/tmp}/quorate-verify-XXXXXX")
declare -A pid=() # node -> process, of those that run
declare -A port=()
failed=0

cleanup() {
    local node
    for node in "${!pid[@]}"; do
        kill -CONT "${pid[$node]}" 2>/dev/null || true
        kill -KILL "${pid[$node]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if [[ -n ${KEEP:-} ]]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

section() { printf '\n%s\n' "$1"; }

ok() { printf '  ok    %s\n' "$1"; }

fail() {
    printf '  FAIL  %s\n' "$1"
    failed=$((failed + 1))
}

# check WHAT COMMAND..: the command must succeed.
check() {
    local what=$1
    shift
    if "$@"; then ok "$what"; else fail "$what"; fi
}

# check_fails WHAT COMMAND..: the command must fail with an error, not with a crash.
check_fails() {
    local what=$1 code=0
    shift
    "$@" >/dev/null 2>&1 || code=$?
    if ((code > 0 && code < 100)); then ok "$what (exit $code)"; else fail "$what (exit $code)"; fi
}

# eventually WHAT COMMAND..: the command must succeed before the deadline. Nothing after a condition
# that never came true would mean anything, so the script ends there.
eventually() {
    local what=$1 until=$((SECONDS + DEADLINE_S))
    shift
    until "$@" 2>/dev/null; do
        if ((SECONDS > until)); then
            fail "$what (not within $DEADLINE_S s)"
            "$QUORATE" status >&2 || true
            tail -n 5 "$work"/*.log >&2
            exit 1
        fi
        sleep $POLL_S
    done
    ok "$what"
}

# What the cluster says.

connect() { # connect FOLDER NODES..: whom the client commands below talk to
    export QUORATE_CERT=$1 QUORATE_NODES=
    shift
    local node
    for node; do
        QUORATE_NODES+="$node=127.0.0.1:${port[$node]},"
    done
}

kv() { "$QUORATE" kv "$@"; }

# The table of `quorate status`. That no node leads is an answer here, not an error.
table() { "$QUORATE" status --timeout 1s 2>/dev/null || true; }

# field NODE COLUMN: one cell of `quorate status`; fails when the node does not answer.
field() {
    table | awk -v node="$1" -v column="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $1 == node && $3 ~ /^[0-9]+$/ { print $at[column]; found = 1 }
        END { exit !found }'
}

# leader: the node that says it leads, in the highest term. Fails when there is none.
leader() {
    table | awk '
        $2 == "leader" && $3 > term { term = $3; node = $1 }
        END { if (node == "") exit 1; print node }'
}

leads() { [[ $(leader) == "$1" ]]; }

has_leader() { leader >/dev/null; }

other_than() { local now; now=$(leader) && [[ $now != "$1" ]]; }

one_leader_known_to_all() {
    table | awk '
        NR > 1 && $3 ~ /^[0-9]+$/ { terms[$3]; leaders[$4]; if ($2 == "leader") leading++; rows++ }
        END { exit !(rows == 3 && leading == 1 && length(terms) == 1 && length(leaders) == 1) }'
}

# same_everywhere: all three have committed and applied the same, up to the last entry.
same_everywhere() {
    table | awk '
        NR > 1 && $3 ~ /^[0-9]+$/ { rows++; split($5, last, "@"); seen[$5 " " $6 " " $7]
            if (last[1] != $6 || $6 != $7) behind = 1 }
        END { exit !(rows == 3 && !behind && length(seen) == 1) }'
}

# What is done to it.

hand_over_to() { "$QUORATE" transfer-leader "$1" --cert "$work/admin" >/dev/null; }

issue() { "$QUORATE" certs issue --ca "$1" "--$2" "$3" --out "$4" >/dev/null; }

start() { # start NODE [FLAGS..]: begins it and does not wait
    local node=$1
    shift
    "$QUORATE" start --cert "$work/n$node" --data-dir "$work/n$node/data" \
        --listen "127.0.0.1:${port[$node]}" --log-format json --log info,quorate_consensus=debug "$@" \
        >>"$work/n$node.out" 2>>"$work/n$node.log" </dev/null &
    pid[$node]=$!
}

start_member() {
    local peer flags=()
    for peer in 1 2 3; do
        [[ $peer == "$1" ]] || flags+=(--peer "$peer=127.0.0.1:${port[$peer]}")
    done
    start "$1" "${flags[@]}"
}

is_up() { kill -0 "${pid[$1]}" && field "$1" ROLE >/dev/null; }

end() { # end SIGNAL NODE..: and waits until they are gone
    local signal=$1 node
    shift
    for node; do
        kill "-$signal" "${pid[$node]}"
    done
    for node; do
        code=0
        { wait "${pid[$node]}" || code=$?; } 2>/dev/null
        unset "pid[$node]"
    done
}

followers() { local node; for node in 1 2 3; do [[ $node == "$1" ]] || echo "$node"; done; }

# What is written must be what is read: every acknowledged write is noted here.
put() { kv put "$1" "$2" >/dev/null && printf '%s\t%s\n' "$1" "$2" >>"$work/acknowledged"; }

put_many() { # put_many PREFIX COUNT
    local i
    for ((i = 1; i <= $2; i++)); do
        put "$1-$i" "value-$1-$i" || return 1
    done
}

everything_is_there() {
    kv range --limit 10000 >"$work/found" || return 1
    sort "$work/acknowledged" >"$work/expected"
    grep -v '^maybe-' "$work/found" | sort | diff - "$work/expected" >&2
}

# Ports below the range from which systems hand out ports to clients.
first_port=$((20000 + RANDOM % 8000))
for node in 1 2 3 9; do
    port[$node]=$((first_port + node))
done

section 'A node alone'
"$QUORATE" certs init --cluster alone --out "$work/ca9" >/dev/null
issue "$work/ca9" node 9 "$work/n9"
issue "$work/ca9" client outside "$work/client9"
connect "$work/client9" 9
start 9 --alone
eventually 'elects itself' has_leader
check 'commits and applies a write' put alone 1
rm "$work/acknowledged"
end KILL 9
start 9
eventually 'is back after kill -9' has_leader
check 'still has the write' test "$(kv get alone)" == 1
end TERM 9
check "ends with 0 on SIGTERM" test "$code" == 0

section 'Three nodes'
"$QUORATE" certs init --cluster verify --out "$work/ca" >/dev/null
for node in 1 2 3; do
    issue "$work/ca" node "$node" "$work/n$node"
done
issue "$work/ca" client outside "$work/client"
issue "$work/ca" admin operator "$work/admin"
connect "$work/client" 1 2 3
for node in 1 2 3; do
    start_member "$node"
done
eventually 'elect one leader, and all know it' one_leader_known_to_all
check 'take writes' put_many first 20
check 'return what was written' everything_is_there
eventually 'replicate everything to every node' same_everywhere

# Only the kernel knows whether what was acknowledged had been synced, so it is asked: every node that acknowledges (the
# leader and at least one other) must have written with RWF_DSYNC, or called fdatasync, between request and answer.
section 'Writes that are synced'
if command -v strace >/dev/null && strace -o /dev/null true 2>/dev/null; then
    tracers=()
    for node in 1 2 3; do
        strace -f -qq -o "$work/n$node.strace" -e trace=pwritev2,fdatasync,fsync -p "${pid[$node]}" 2>/dev/null &
        tracers+=($!)
    done
    traced() {
        local node
        for node in 1 2 3; do
            ! grep -q '^TracerPid:[[:space:]]*0$' "/proc/${pid[$node]}/status" || return 1
        done
    }
    eventually 'are watched from outside' traced
    synced_by_majority() { # synced_by_majority BEFORE: how many nodes have synced more often than noted there
        local node count=0
        for node in 1 2 3; do
            (($(syncs "$node") > before[node])) && count=$((count + 1))
        done
        ((count >= 2))
    }
    syncs() { grep -cE 'RWF_DSYNC|RWF_SYNC|fdatasync\(|fsync\(' "$work/n$1.strace" || true; }
    declare -A before=()
    unsynced=0
    for ((i = 1; i <= 10; i++)); do
        for node in 1 2 3; do before[$node]=$(syncs "$node"); done
        put "synced-$i" "$i" || unsynced=$((unsynced + 100))
        synced_by_majority || unsynced=$((unsynced + 1))
    done
    check 'are synced by a majority before they are acknowledged, ten times of ten' test "$unsynced" == 0
    kill "${tracers[@]}" 2>/dev/null || true
    wait "${tracers[@]}" 2>/dev/null || true
    untraced() { ! traced && one_leader_known_to_all; }
    eventually 'go on unwatched' untraced
else
    echo '  skip  strace is not here, or may not trace'
fi

section 'A follower that is away'
eventually 'have a leader' has_leader
mapfile -t others < <(followers "$(leader)")
away=${others[0]}
end TERM "$away"
check "stops with 0 on SIGTERM" test "$code" == 0
check 'two of three still take writes' put_many away 20
start_member "$away"
eventually 'it is back' is_up "$away"
eventually 'it has caught up' same_everywhere
check 'leadership can be handed to it' hand_over_to "$away"
eventually 'it leads' leads "$away"
check 'it returns all that was written, also while it was away' everything_is_there
check_fails 'a client may not hand over leadership' "$QUORATE" transfer-leader --any

section 'A leader that is killed'
eventually 'is there' has_leader
killed=$(leader)
end KILL "$killed"
check 'writes go on' put_many killed 20
eventually 'another node leads' other_than "$killed"
check 'nothing acknowledged is lost' everything_is_there
start_member "$killed"
eventually 'it is back' is_up "$killed"
eventually 'it has caught up' same_everywhere

section 'A leader that is told to stop'
eventually 'is there' has_leader
stopped=$(leader)
end TERM "$stopped"
check "ends with 0 on SIGTERM" test "$code" == 0
check 'writes go on' put_many stopped 5
start_member "$stopped"
eventually 'it is back and has caught up' same_everywhere

section 'A leader without its majority'
eventually 'is there' has_leader
lonely=$(leader)
mapfile -t others < <(followers "$lonely")
before=$(field "$lonely" COMMIT)
# Writes go on while the others die, so that one of them reaches the log of the leader and no other.
(
    i=0
    while kv put "maybe-$((i += 1))" 1 --timeout 2s >/dev/null 2>&1; do :; done
) &
writer=$!
enough_written() { (($(field "$lonely" COMMIT) > before + 3)); }
eventually 'is writing' enough_written
end KILL "${others[@]}"
wait $writer
commit=$(field "$lonely" COMMIT)
last=$(field "$lonely" LAST)
check 'holds a write that no other node has' test "${last%@*}" -gt "$commit"
check_fails 'acknowledges no write' kv put nobody 1 --timeout 2s
check_fails 'answers no linearizable read' kv get first-1 --timeout 2s
check 'commits nothing' test "$(field "$lonely" COMMIT)" == "$commit"
end KILL "$lonely"
for node in "${others[@]}"; do
    start_member "$node"
done
eventually 'the majority elects another leader without it' has_leader
check 'which takes other writes in the same place' put_many conflict 5
start_member "$lonely"
eventually 'it gives up what was never committed, and converges' same_everywhere
check 'nothing acknowledged is lost' everything_is_there

section 'Everything at once'
end KILL 1 2 3
for node in 1 2 3; do
    start_member "$node"
done
eventually 'all are back after kill -9' same_everywhere
check 'nothing acknowledged is lost' everything_is_there

section 'Logs'
says() { grep -hq "\"$1\":" "$work"/n[123].log; }
for name in term index commit applied leader role node; do
    check "carry $name" says "$name"
done
no_line() { ! grep -hq "$@"; }
check 'are JSON, line by line' no_line -v '^{.*}$' "$work"/n*.log
check 'tell of no panic' no_line -i 'panicked' "$work"/n*.log
check 'tell of no error' no_line '"level":"ERROR"' "$work"/n*.log

if ((failed > 0)); then
    printf '\n%d checks failed\n' "$failed"
    exit 1
fi
printf '\nall checks passed in %d s\n' "$SECONDS"
