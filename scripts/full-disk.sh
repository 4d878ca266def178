#!/usr/bin/env bash
# Fills disks for real: data folders are small tmpfs, which needs root to mount. Exits non-zero when anything is
# otherwise than said here, and leaves nothing behind.
#
# First the disk of one of three nodes, with no reserve: the node must stop with one clear line, the others must go
# on, and with room it must come back and have everything. Then all three at once, with a reserve: writes must be
# refused and deletes taken, no node may stop, and with room writes must go on without a restart.
#
#   sudo scripts/full-disk.sh                          builds the release executable
#   sudo QUORATE=target/release/quorate scripts/full-disk.sh
set -Eeuo pipefail
trap 'echo "line $LINENO: an unexpected command failed" >&2' ERR
cd "$(dirname "$0")/.."

# Two halves of a journal, and room for a few seconds of writing.
SMALL=48m
LARGE=2g
# With a reserve: room for the journal and some seconds of writing, and a reserve for a log with a short tail and what is
# in memory.
MEDIUM=320m
RESERVE=192MiB
DEADLINE_S=120

if [[ -z ${QUORATE:-} ]]; then
    cargo build --quiet --locked --release --bin quorate
    QUORATE=${CARGO_TARGET_DIR:-target}/release/quorate
fi
QUORATE=$(realpath "$QUORATE")
work=$(mktemp -d "${TMPDIR:-/tmp}/quorate-full-XXXXXX")
declare -A pid=()
port=$((20000 + RANDOM % 8000))

cleanup() {
    local node
    for node in "${!pid[@]}"; do
        kill -KILL "${pid[$node]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    for node in 1 2 3; do
        umount "$work/n$node/data" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "FAIL  $1" >&2
    tail -n 3 "$work"/n*.log >&2
    exit 1
}

ok() { echo "ok    $1"; }

eventually() { # eventually WHAT COMMAND..
    local what=$1 until=$((SECONDS + DEADLINE_S))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS <= until)) || fail "$what (not within $DEADLINE_S s)"
        sleep 0.1
    done
    ok "$what"
}

reserve=0

start() {
    local node=$1 peer flags=(--disk-reserve "$reserve")
    for peer in 1 2 3; do
        [[ $peer == "$node" ]] || flags+=(--peer "$peer=127.0.0.1:$((port + peer))")
    done
    "$QUORATE" start --cert "$work/n$node" --data-dir "$work/n$node/data" --log-tail 1MiB \
        --listen "127.0.0.1:$((port + node))" "${flags[@]}" >>"$work/n$node.out" 2>>"$work/n$node.log" </dev/null &
    pid[$node]=$!
}

gone() { ! kill -0 "${pid[$1]}" 2>/dev/null; }

# applied NODE: how far it is; fails when it does not answer.
applied() {
    "$QUORATE" status --timeout 1s 2>/dev/null |
        awk -v node="$1" 'NR > 1 && $1 == node && $3 ~ /^[0-9]+$/ { print $7; found = 1 } END { exit !found }'
}

same_everywhere() { [[ $(applied 1) == "$(applied 3)" && $(applied 2) == "$(applied 3)" ]]; }

write() { "$QUORATE" bench put --clients 16 --seconds "$1" --value 4096 >/dev/null 2>&1; }

"$QUORATE" certs init --cluster full --out "$work/ca" >/dev/null
for node in 1 2 3; do
    "$QUORATE" certs issue --ca "$work/ca" --node "$node" --out "$work/n$node" >/dev/null
done
"$QUORATE" certs issue --ca "$work/ca" --client app --out "$work/app" >/dev/null
disk() { # disk NODE SIZE
    mkdir -p -m 700 "$work/n$1/data"
    mount -t tmpfs -o "size=$2,mode=700" tmpfs "$work/n$1/data"
}

disk 3 "$SMALL"
export QUORATE_CERT=$work/app
export QUORATE_NODES="1=127.0.0.1:$((port + 1)),2=127.0.0.1:$((port + 2)),3=127.0.0.1:$((port + 3))"
for node in 1 2 3; do start "$node"; done
eventually 'three nodes serve' same_everywhere

until=$((SECONDS + DEADLINE_S))
until gone 3; do
    ((SECONDS <= until)) || fail 'the disk is not full yet'
    write 1 || true
done
code=0
{ wait "${pid[3]}" || code=$?; } 2>/dev/null
unset 'pid[3]'
((code > 0 && code < 100)) || fail "the node with the full disk ends with exit code $code"
grep -qi 'space' "$work/n3.log" || fail 'the node with the full disk does not say why it stops'
lines=$(grep -c . "$work/n3.log")
ok "the node with the full disk ends with exit code $code and says: $(grep -i space "$work/n3.log" | tail -1 | cut -c1-300)"
((lines < 40)) || fail "it took $lines lines to say so"

"$QUORATE" kv put after full >/dev/null || fail 'the others do not go on'
write 2 || fail 'the others do not go on'
ok 'the others go on'

start 3
until=$((SECONDS + 10))
until gone 3 || ((SECONDS > until)); do sleep 0.1; done
gone 3 && { wait "${pid[3]}" 2>/dev/null || true; unset 'pid[3]'; }
[[ -z ${pid[3]:-} ]] || { kill -KILL "${pid[3]}"; wait "${pid[3]}" 2>/dev/null || true; unset 'pid[3]'; }
ok 'a start on the full disk does no harm'

mount -o "remount,size=$LARGE" "$work/n3/data"
start 3
eventually 'with room, it comes back and has everything' same_everywhere
for node in 1 2 3; do kill -TERM "${pid[$node]}"; done
wait
pid=()
digests=$(for node in 1 2 3; do "$QUORATE" check "$work/n$node/data" --json | sed 's/.*"digest":"\([0-9a-f]*\)".*/\1/'; done | sort -u | wc -l)
((digests == 1)) || fail 'the states differ'
ok 'the three states are the same'

# All three at once, with a reserve.
umount "$work/n3/data"
rm -rf "$work"/n?/data
reserve=$RESERVE
for node in 1 2 3; do
    disk "$node" "$MEDIUM"
    : >"$work/n$node.log"
    start "$node"
done
eventually 'three nodes on small disks serve' same_everywhere
"$QUORATE" kv put first value >/dev/null || fail 'nothing is taken on an empty disk'

refused() { # refused COMMAND..: it is, for want of room.
    local code=0
    "$@" >"$work/refused" 2>&1 || code=$?
    ((code == 75)) && grep -q 'nearly full' "$work/refused"
}
full() { refused "$QUORATE" kv put more value; }
until=$((SECONDS + DEADLINE_S))
until full; do
    ((SECONDS <= until)) || fail 'writes are not refused'
    write 1 || true
    for node in 1 2 3; do gone "$node" && fail "node $node has stopped"; done
done
ok "writes are refused: $(cut -c1-200 "$work/refused" | head -1)"
"$QUORATE" status --check >"$work/check" 2>&1 && fail 'the check finds nothing'
grep -q 'nearly full' "$work/check" || fail 'the check does not say why'
for ((n = 0; n < 5; n++)); do
    write 1 || true
    "$QUORATE" kv get first >/dev/null || fail 'a read is refused'
done
full || fail 'writes are taken again'
"$QUORATE" kv del first >/dev/null || fail 'a delete is refused'
"$QUORATE" kv del --all >/dev/null || fail 'many deletes are refused'
refused "$QUORATE" kv lock some -- true || fail 'a lock is given'
for node in 1 2 3; do gone "$node" && fail "node $node has stopped"; done
ok 'reads and deletes go on, and no node has stopped'

for node in 1 2 3; do mount -o "remount,size=$LARGE" "$work/n$node/data"; done
eventually 'with room, writes go on without a restart' "$QUORATE" kv put more value
eventually 'all is well' "$QUORATE" status --check
for node in 1 2 3; do
    ! grep -q 'stops itself' "$work/n$node.log" || fail "node $node has stopped"
    kill -TERM "${pid[$node]}"
done
wait
pid=()
ok "the warning is in the log: $(grep -h 'nearly full' "$work"/n?.log | head -1 | cut -c1-160)"
