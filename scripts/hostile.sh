#!/usr/bin/env bash
# Members that lie: well-typed messages with any content, into nodes that go on with their lives meanwhile. What
# `cargo test` tries, so many times over, each time with other choices; 500 times are 10^8 messages. Prints how
# many; fails at the first panic, second vote, or promise of what is not durable.
#
#   scripts/hostile.sh [TIMES]
set -euo pipefail
cd "$(dirname "$0")/.."
QUORATE_TIMES=${1:-20} cargo test --release --locked -p quorate-consensus --test cluster -- --nocapture fuzz::i7_ \
    | grep -E '[0-9]+ heard|^test result'
