//! Bugs that are planted on purpose, to see that the tests notice them: `tests/src/planted/bugs.rs`
//! names them all. Only a build with `--cfg quorate_planted` contains any.

/// Whether `bug` is the one that this process has.
#[cfg(not(quorate_planted))]
pub(crate) const fn is(_bug: &str) -> bool {
    false
}

/// Whether `bug` is the one that this process has.
#[cfg(quorate_planted)]
pub(crate) fn is(bug: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<String> =
        LazyLock::new(|| std::env::var("QUORATE_PLANTED").unwrap_or_default());
    *PLANTED == bug
}
