//! Every bug that can be planted.

use crate::level::Level;

/// A bug, and who has to notice it.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// As [`VARIABLE`](super::VARIABLE) has it.
    pub name: &'static str,
    /// What goes wrong.
    pub breaks: &'static str,
    /// Who notices.
    pub finder: Finder,
}

/// Who has to notice a bug.
#[derive(Clone, Copy, Debug)]
pub enum Finder {
    /// A simulation, in one of so many seeds from zero on.
    Seeds {
        /// The level.
        level: Level,
        /// How many.
        allowed: u64,
    },
    /// A test, where the simulations have no such enemy or the fault is in what they replace.
    Test {
        /// The package.
        package: &'static str,
        /// As `cargo test` names the target.
        target: &'static str,
        /// With its modules.
        test: &'static str,
    },
}

const fn level1(allowed: u64, name: &'static str, breaks: &'static str) -> Bug {
    let level = Level::Consensus;
    let finder = Finder::Seeds { level, allowed };
    Bug {
        name,
        breaks,
        finder,
    }
}

const fn level2(allowed: u64, name: &'static str, breaks: &'static str) -> Bug {
    let level = Level::Stack;
    let finder = Finder::Seeds { level, allowed };
    Bug {
        name,
        breaks,
        finder,
    }
}

const fn persist(test: &'static str, name: &'static str, breaks: &'static str) -> Bug {
    tested("quorate-persist", "--test=suite", test, name, breaks)
}

const fn verify(test: &'static str, name: &'static str, breaks: &'static str) -> Bug {
    tested("quorate-certs", "--test=verify", test, name, breaks)
}

const fn transport(
    target: &'static str,
    test: &'static str,
    name: &'static str,
    breaks: &'static str,
) -> Bug {
    tested("quorate-quic-transport", target, test, name, breaks)
}

const fn tested(
    package: &'static str,
    target: &'static str,
    test: &'static str,
    name: &'static str,
    breaks: &'static str,
) -> Bug {
    let finder = Finder::Test {
        package,
        target,
        test,
    };
    Bug {
        name,
        breaks,
        finder,
    }
}

/// All of them: by what they are bugs of, and then by who notices.
pub const BUGS: &[Bug] = &[
    // The disk.
    level2(40, "no-fsync", "nothing that is written is synced"),
    level2(
        40,
        "directory-not-synced",
        "a new file's name is never made durable",
    ),
    level2(
        40,
        "io-errors-ignored",
        "a write or sync that failed counts as done",
    ),
    level2(
        40,
        "failed-sync-repeated",
        "a sync that failed is repeated, and the second one is believed",
    ),
    level2(
        40,
        "acknowledged-before-written",
        "the log says that a batch is durable before it is written",
    ),
    level2(40, "vote-not-saved", "a vote is not written"),
    level2(
        40,
        "hard-state-not-saved",
        "term and vote are written with entries only",
    ),
    level2(
        40,
        "two-transactions",
        "entries are written in another transaction than term and vote",
    ),
    level2(
        40,
        "log-not-cut",
        "a suffix that was replaced by a shorter one keeps its end on the disk",
    ),
    level2(
        40,
        "starts-not-counted",
        "a start does not raise the boot counter",
    ),
    level2(
        40,
        "state-behind-its-index",
        "the state is saved without one of the values that its applied index stands for",
    ),
    persist(
        "founding::a11_a_crash_of_a_first_start_leaves_no_file_that_does_not_open",
        "creation-not-atomic",
        "a new file has its name before it is complete",
    ),
    persist(
        "damage::b9_g12_entries_out_of_place_are_refused",
        "row-checksum-skipped",
        "an entry's checksum is not compared",
    ),
    persist(
        "damage::b5_a_flipped_bit_never_becomes_data",
        "no-integrity-check",
        "pages are not checked as a file is opened",
    ),
    persist(
        "media::b7_a_flipped_bit_after_a_crash_takes_no_commit_back",
        "one-phase-commit",
        "a commit has one phase",
    ),
    persist(
        "ownership::b17_e8_only_the_owner_opens_a_file",
        "owner-not-checked",
        "a node opens the log of another one",
    ),
    // Raft.
    level1(
        500,
        "no-pre-vote",
        "an election is not rehearsed, so that whoever comes back deposes the leader",
    ),
    level1(
        500,
        "no-check-quorum",
        "a leader that hears from no majority goes on",
    ),
    level1(
        500,
        "timeouts-not-random",
        "all election timeouts are the same",
    ),
    level1(
        500,
        "vote-before-durable",
        "a vote is sent before it is durable",
    ),
    level1(
        500,
        "entries-before-durable",
        "entries are acknowledged to the leader before they are durable",
    ),
    level1(
        500,
        "leader-counts-itself-early",
        "a leader counts its own log before it is durable",
    ),
    tested(
        "quorate-consensus",
        "--test=cluster",
        "log::an_entry_of_an_older_term_is_not_committed_by_counting",
        "older-term-committed",
        "an entry of an older term is committed because a majority holds it",
    ),
    level1(
        500,
        "learner-counts-as-voter",
        "a learner counts in elections and commits",
    ),
    level1(
        1_000,
        "lease-reads",
        "a leader answers reads for as long as it believes to lead",
    ),
    level1(
        500,
        "read-without-majority",
        "a leader answers reads without asking a majority whether it still leads",
    ),
    level1(
        500,
        "read-before-no-op",
        "a leader answers reads before it has committed in its own term",
    ),
    tested(
        "quorate-consensus",
        "--test=cluster",
        "reads::a_read_waits_until_its_index_is_applied",
        "read-before-apply",
        "a read does not wait until what it must see is applied",
    ),
    level1(
        500,
        "read-context-reused",
        "two rounds of reads have one context, so that an old answer confirms a new read",
    ),
    level1(
        500,
        "answered-by-index",
        "a proposal is answered by whatever was committed at its index",
    ),
    level1(
        500,
        "timeout-reported-as-failure",
        "a proposal whose outcome is unknown is reported to have done nothing",
    ),
    tested(
        "quorate-consensus",
        "--test=cluster",
        "fuzz::hostile_messages_panic_nobody",
        "no-sanitizer",
        "messages go to `raft` unchecked",
    ),
    // Clients.
    level2(
        40,
        "write-sent-again",
        "the client sends a write again whose outcome is unknown",
    ),
    level2(
        40,
        "deadline-reported-as-failure",
        "a write without an answer in time is reported to have done nothing",
    ),
    // Who is who.
    tested(
        "quorate-tests",
        "--test=simulation",
        "e1_a_wiped_node_is_kept_out",
        "other-store-admitted",
        "a member may come back with another store",
    ),
    transport(
        "--test=refusals",
        "b11_e4_an_older_copy_of_a_store_is_refused",
        "older-boot-admitted",
        "a member may come back with an older copy of its store",
    ),
    transport(
        "--test=hostile",
        "e7_i5_j6_j22_a_hello_must_agree_with_the_certificate",
        "sender-not-checked",
        "a peer may call itself otherwise than its certificate does",
    ),
    transport(
        "--test=certificates",
        "j1_no_certificate_is_refused",
        "client-certificate-optional",
        "whoever dials need not have a certificate",
    ),
    transport(
        "--test=refusals",
        "d15_j6_another_node_at_the_address_is_named",
        "peer-name-not-checked",
        "whoever answers at an address is taken for who should",
    ),
    transport(
        "--test=certificates",
        "j18_nothing_can_be_resumed",
        "tickets-given",
        "a session may be resumed without a look at the certificate",
    ),
    verify(
        "j4_j5_validity_is_checked",
        "expired-accepted",
        "an expired certificate is good",
    ),
    verify(
        "an_expired_ca_is_refused",
        "expired-authority-accepted",
        "an expired CA may vouch",
    ),
    verify(
        "j8_another_clusters_identity_is_refused",
        "other-cluster-accepted",
        "an identity of another cluster is good",
    ),
    // Bounds.
    transport(
        "--lib",
        "frame::tests::i1_a_length_beyond_the_limit_is_refused_before_its_bytes_arrive",
        "frame-length-unlimited",
        "a frame may have any length",
    ),
    transport(
        "--test=floods",
        "d10_a_peer_that_never_reads_costs_its_queue",
        "send-queue-unbounded",
        "what waits for a slow peer has no bound",
    ),
];
