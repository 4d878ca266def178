#!/usr/bin/env bash
# Builds Quorate with the bugs of tests/src/planted/bugs.rs, lets one after the other loose, and writes who
# noticed into docs/planted-bugs.md. With names of bugs: only those, and writes nothing.
# Ordinary builds have none of them, and keep their own target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS='--cfg quorate_planted' CARGO_TARGET_DIR="$PWD/target/planted"
# Not `cargo run`: what that sets makes the cargo that builds the tests begin anew.
cargo build --locked --profile planted -p quorate-tests
exec "$CARGO_TARGET_DIR/planted/quorate-tests" mutants "$@"
