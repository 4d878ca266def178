#!/usr/bin/env bash
# The log on a disk that loses power at every operation, flips bits, and misplaces sectors: what `cargo test`
# tries, so many times over, each time with other choices. Prints how many; fails at the first that is not
# as promised. 20 times are about 10^5 damaged files.
#
#   scripts/disk.sh [TIMES]
set -euo pipefail
cd "$(dirname "$0")/.."
QUORATE_TIMES=${1:-20} cargo test --release --locked -p quorate-persist --test suite -- --nocapture \
    a1_a2_ b5_a_ b7_a_ b9_misplaced_ | grep -E '[0-9]+ (crash|flipped|misplaced)|^test result'
