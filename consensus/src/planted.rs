//! Bugs that are planted on purpose, to see that the tests notice them: `tests/src/planted/bugs.rs`
//! names them all. Only a build with `--cfg quorate_planted` contains any.

use raft::Raft;

use crate::log_view::LogView;

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

/// Nothing.
#[cfg(not(quorate_planted))]
pub(crate) const fn commit_by_count(_raft: &mut Raft<LogView>) {}

/// Commits what a majority holds, though it is of an older term (Raft paper, figure 8).
#[cfg(quorate_planted)]
pub(crate) fn commit_by_count(raft: &mut Raft<LogView>) {
    if is("older-term-committed") && raft.state == raft::StateRole::Leader {
        let (held, _) = raft.mut_prs().maximal_committed_index();
        raft.raft_log.commit_to(held);
    }
}
