//! Every bug that can be planted.

use super::finder::{Bug, bug, cluster, level1, level2, test, unit};

/// All of them: by what they are bugs of, and then by who notices.
pub const BUGS: &[Bug] = &[
    // The disk.
    bug("no-fsync", "nothing that is written is synced", level2(40)),
    bug(
        "directory-not-synced",
        "a new file's name is never made durable",
        level2(40),
    ),
    bug(
        "io-errors-ignored",
        "a write or sync that failed counts as done",
        level2(40),
    ),
    bug(
        "failed-sync-repeated",
        "a sync that failed is repeated, and the second one is believed",
        level2(200),
    ),
    bug(
        "flush-failure-ignored",
        "what fails while a thread brings half of the log's journal to its place counts as done",
        test(
            "persist",
            "suite",
            "faults::b1_b2_a_failure_in_the_background_is_told_by_a_later_append",
        ),
    ),
    bug(
        "acknowledged-before-written",
        "the log says that a batch is durable before it is written",
        level2(40),
    ),
    bug("vote-not-saved", "a vote is not written", level2(40)),
    bug(
        "hard-state-not-saved",
        "term and vote are written with entries only",
        level2(40),
    ),
    bug(
        "two-transactions",
        "entries are written in another transaction than term and vote",
        level2(40),
    ),
    bug(
        "log-not-cut",
        "a suffix that was replaced by a shorter one keeps its end on the disk",
        level2(400),
    ),
    bug(
        "shared-row-not-kept",
        "where the log is cut inside of a row of several entries, those that stay are lost",
        level2(40),
    ),
    bug(
        "starts-not-counted",
        "a start does not raise the boot counter",
        level2(40),
    ),
    bug(
        "state-behind-its-index",
        "the state is saved without one of the values that its applied index stands for",
        level2(40),
    ),
    bug(
        "base-not-saved",
        "a compaction removes entries and does not say where the log begins now",
        level2(40),
    ),
    bug(
        "boundary-term-lost",
        "a compaction forgets the term of the last entry that it removes",
        level2(40),
    ),
    bug(
        "pair-missing-in-snapshot",
        "a piece of a snapshot lacks all pairs but its first",
        level2(100),
    ),
    bug(
        "creation-not-atomic",
        "a new file has its name before it is complete",
        test(
            "persist",
            "suite",
            "founding::a11_a_crash_of_a_first_start_leaves_no_file_that_does_not_open",
        ),
    ),
    bug(
        "draft-not-synced",
        "a state that was saved gets its name before it is durable",
        test(
            "tests",
            "simulation",
            "saved::a2_a_saved_state_survives_a_loss_of_power_at_any_operation",
        ),
    ),
    bug(
        "row-checksum-skipped",
        "an entry's checksum is not compared",
        test(
            "persist",
            "suite",
            "damage::b9_g12_entries_out_of_place_are_refused",
        ),
    ),
    bug(
        "no-integrity-check",
        "pages are not checked as a file is opened",
        test(
            "persist",
            "suite",
            "damage::b5_a_flipped_bit_never_becomes_data",
        ),
    ),
    bug(
        "owner-not-checked",
        "a node opens the log of another one",
        test(
            "persist",
            "suite",
            "ownership::b17_e8_only_the_owner_opens_a_file",
        ),
    ),
    // Raft.
    bug(
        "compacted-beyond-the-state",
        "entries are removed from the log that the state has only in memory",
        level1(200),
    ),
    bug(
        "state-installed-before-the-log",
        "a snapshot replaces the state before the log begins after it",
        cluster("snapshots::g3_a_crash_at_any_step_of_installing_a_snapshot"),
    ),
    bug(
        "second-snapshot-taken-early",
        "a snapshot takes the place of one that is still to be installed",
        cluster("snapshots::g4_a_second_snapshot_waits_until_the_first_is_installed"),
    ),
    bug(
        "former-leaders-snapshot-kept",
        "what a former leader began to give holds up the snapshot of the next one",
        cluster("snapshots::g2_the_leader_changes_while_a_snapshot_is_sent"),
    ),
    bug(
        "no-pre-vote",
        "an election is not rehearsed, so that whoever comes back deposes the leader",
        level1(500),
    ),
    bug(
        "no-check-quorum",
        "a leader that hears from no majority goes on",
        level1(500),
    ),
    bug(
        "timeouts-not-random",
        "all election timeouts are the same",
        level1(2_000),
    ),
    bug(
        "lone-node-waits",
        "the only voter leads when somebody tells it to, or its election timeout has passed",
        test(
            "consensus",
            "driver",
            "a_node_that_is_alone_leads_by_itself",
        ),
    ),
    bug(
        "stalled-leader-stays",
        "a leader whose state machine hangs leads on",
        cluster("stalls::b19_a_leader_whose_state_machine_hangs_hands_over"),
    ),
    bug(
        "late-voter-takes-over",
        "a voter whose state machine hangs takes leadership from one whose state machine hangs",
        cluster("stalls::leadership_comes_to_the_one_whose_state_machine_goes_on"),
    ),
    bug(
        "vote-before-durable",
        "a vote is sent before it is durable",
        level1(500),
    ),
    bug(
        "entries-before-durable",
        "entries are acknowledged to the leader before they are durable",
        level1(500),
    ),
    bug(
        "leader-counts-itself-early",
        "a leader counts its own log before it is durable",
        level1(500),
    ),
    bug(
        "older-term-committed",
        "an entry of an older term is committed because a majority holds it",
        cluster("log::an_entry_of_an_older_term_is_not_committed_by_counting"),
    ),
    bug(
        "learner-counts-as-voter",
        "a learner counts in elections and commits",
        level1(500),
    ),
    bug(
        "lease-reads",
        "a leader answers reads for as long as it believes to lead",
        level1(2_000),
    ),
    bug(
        "read-without-majority",
        "a leader answers reads without asking a majority whether it still leads",
        level1(500),
    ),
    bug(
        "read-before-no-op",
        "a leader answers reads before it has committed in its own term",
        level1(500),
    ),
    bug(
        "read-before-apply",
        "a read does not wait until what it must see is applied",
        cluster("reads::h7_a_read_waits_until_its_index_is_applied"),
    ),
    bug(
        "read-context-reused",
        "two rounds of reads have one context, so that an old answer confirms a new read",
        level1(500),
    ),
    bug(
        "follower-reads-at-once",
        "a follower answers reads without asking its leader",
        level1(40),
    ),
    bug(
        "read-by-no-voter",
        "a leader that has left answers reads alone, where one voter is left",
        cluster("membership::h8_a_leader_that_is_no_voter_reads_nothing"),
    ),
    bug(
        "snapshot-read-before-installed",
        "a read at a follower is answered before the snapshot that it must see is installed",
        level1(400),
    ),
    bug(
        "answered-by-index",
        "a proposal is answered by whatever was committed at its index",
        level1(500),
    ),
    bug(
        "timeout-reported-as-failure",
        "a proposal whose outcome is unknown is reported to have done nothing",
        level1(500),
    ),
    bug(
        "stall-not-told",
        "who waits for a state machine that hangs is told nothing",
        test(
            "consensus",
            "driver",
            "b19_a_state_machine_that_hangs_is_told_of_until_it_comes_back",
        ),
    ),
    bug(
        "stall-reported-as-failure",
        "who waits for a state machine that hangs is told that nothing happened",
        test(
            "consensus",
            "driver",
            "b19_a_state_machine_that_hangs_is_told_of_until_it_comes_back",
        ),
    ),
    bug(
        "no-sanitizer",
        "messages go to `raft` unchecked",
        cluster("fuzz::i7_hostile_messages_panic_nobody"),
    ),
    // Clients.
    bug(
        "voters-changed-in-one-step",
        "new voters decide without the former ones",
        cluster("membership::f4_neither_majority_decides_alone"),
    ),
    bug(
        "members-of-the-logs-end",
        "a restart takes members from entries that are not committed",
        level1(200),
    ),
    bug(
        "members-forgotten",
        "a restart does not know of the members that counted before it",
        cluster("membership::f4_voters_that_were_removed_are_not_needed_after_a_crash"),
    ),
    bug(
        "told-members-in-snapshot",
        "a snapshot names members that its giver was told of when it joined",
        cluster("snapshots::f10_what_a_node_was_told_when_it_joined_is_no_membership_for_others"),
    ),
    bug(
        "present-members-in-snapshot",
        "a snapshot names members from after it",
        level1(200),
    ),
    bug(
        "members-at-base-not-saved",
        "a log that is compacted forgets its members",
        test("persist", "suite", "log::f11_members_go_with_their_entries"),
    ),
    bug(
        "lagging-learner-promoted",
        "a learner becomes a voter before it has caught up",
        cluster("membership::f7_a_learner_that_lags_is_not_promoted"),
    ),
    bug(
        "id-used-again",
        "a node that was removed may be added again",
        cluster("membership::f5_f6_a_removed_node_stays_away"),
    ),
    bug(
        "joint-left-by-its-beginner-only",
        "the next leader does not complete a change",
        cluster("membership::f4_the_next_leader_leaves_the_joint_membership"),
    ),
    bug(
        "divergence-ignored",
        "a member that found another state than the majority goes on",
        cluster("comparison::b18_the_one_that_differs_stops"),
    ),
    bug(
        "write-sent-again",
        "the client sends a write again without the name by which it would be applied once",
        level2(40),
    ),
    bug(
        "command-applied-again",
        "a command that is in the log twice under one name is applied twice",
        level2(100),
    ),
    bug(
        "repeated-command-applied",
        "a numbered command of an embedding program that is in the log twice is applied twice",
        test(
            "node-bin",
            "submit",
            "h1_h3_a_command_that_was_given_to_two_leaders",
        ),
    ),
    bug(
        "given-command-not-taken",
        "a command that a leader was given, and that nobody can be asked about any more, is said not to have happened",
        test(
            "node-bin",
            "submit",
            "h3_a_command_that_was_given_to_a_lost_leader_is_unknown",
        ),
    ),
    bug(
        "sessions-are-anybodys",
        "a client's command is applied in the session of another one, whose next command is taken for it",
        test("tests", "once", "a_session_is_its_owners"),
    ),
    bug(
        "leases-never-end",
        "a lease that was not kept lives on",
        test("tests", "once", "a_lease_outlives_leaders_and_ends"),
    ),
    bug(
        "lease-takes-what-was-written-since",
        "a lease that ends takes keys along that were written again since they were bound to it",
        test("tests", "once", "a_lease_outlives_leaders_and_ends"),
    ),
    bug(
        "leases-without-shares",
        "one identity may have all leases that there can be",
        unit(
            "node-bin",
            "kv::store::tests::shares::one_identity_gets_no_more_than_its_share",
        ),
    ),
    bug(
        "time-runs-ahead",
        "the time that leases live by passes twice as fast as it does",
        level2(100),
    ),
    bug(
        "watch-gap-not-told",
        "whoever watches is not told that changes are missing",
        level2(100),
    ),
    bug(
        "shorter-prefixes-missed",
        "of those who watch what a key begins with, only those with the longest beginning are told",
        unit(
            "node-bin",
            "kv::watchers::tests::whom_a_change_concerns_is_found",
        ),
    ),
    bug(
        "overload-asked-again-at-once",
        "clients who hear that a node is overloaded ask again as soon as for any other reason",
        unit(
            "node-bin",
            "kv::client::retry::tests::who_hears_of_overload_asks_less_often",
        ),
    ),
    bug(
        "deadline-reported-as-failure",
        "a write without an answer in time is reported to have done nothing",
        level2(40),
    ),
    bug(
        "questions-pile-up",
        "a client that looks for the leader asks a node again that has not answered yet",
        unit(
            "node-bin",
            "kv::client::search::tests::one_question_at_a_time",
        ),
    ),
    bug(
        "status-asked-for-again",
        "a client that looks for the leader asks for a node's whole status each time",
        unit(
            "node-bin",
            "kv::client::search::tests::a_status_is_asked_for_once",
        ),
    ),
    // Who is who.
    bug(
        "other-store-admitted",
        "a member may come back with another store",
        test(
            "tests",
            "simulation",
            "identity::e1_a_wiped_node_is_kept_out",
        ),
    ),
    bug(
        "newcomer-not-remembered",
        "a node that was met before it was a member may come back with another store",
        test(
            "tests",
            "simulation",
            "members::e1_a_wiped_node_that_joined_is_kept_out",
        ),
    ),
    bug(
        "older-boot-admitted",
        "a member may come back with an older copy of its store",
        test(
            "quic-transport",
            "refusals",
            "b11_e4_an_older_copy_of_a_store_is_refused",
        ),
    ),
    bug(
        "twin-admitted",
        "two processes on copies of one data folder are taken for one",
        test(
            "tests",
            "cluster",
            "e4_e6_a_copy_of_the_last_start_is_kept_out",
        ),
    ),
    bug(
        "older-log-admitted",
        "a member may come back with a log that lacks what it acknowledged",
        test(
            "tests",
            "simulation",
            "identity::e4_a_log_behind_what_it_acknowledged_is_kept_out",
        ),
    ),
    bug(
        "vote-not-remembered",
        "a member may come back with a store from before the vote that it gave",
        test(
            "tests",
            "simulation",
            "identity::e4_a_store_from_before_its_vote_is_kept_out",
        ),
    ),
    bug(
        "sender-not-checked",
        "a peer may call itself otherwise than its certificate does",
        test(
            "quic-transport",
            "hostile",
            "e7_i5_j6_j22_a_hello_must_agree_with_the_certificate",
        ),
    ),
    bug(
        "client-certificate-optional",
        "whoever dials need not have a certificate",
        test(
            "quic-transport",
            "certificates",
            "j1_no_certificate_is_refused",
        ),
    ),
    bug(
        "peer-name-not-checked",
        "whoever answers at an address is taken for who should",
        test(
            "quic-transport",
            "refusals",
            "d15_j6_another_node_at_the_address_is_named",
        ),
    ),
    bug(
        "expired-connections-kept",
        "a connection outlives the certificate of the peer",
        test(
            "quic-transport",
            "renewal",
            "c9_a_connection_ends_with_its_certificate",
        ),
    ),
    bug(
        "open-connections-not-judged-again",
        "a connection stays open though the peer's CA is not trusted any more",
        test(
            "quic-transport",
            "renewal",
            "k7_who_is_not_trusted_any_more_is_not_kept",
        ),
    ),
    bug(
        "tickets-given",
        "a session may be resumed without a look at the certificate",
        test(
            "quic-transport",
            "certificates",
            "j18_nothing_can_be_resumed",
        ),
    ),
    bug(
        "signature-not-checked",
        "whoever has copied a certificate needs no key to be taken for its owner",
        test(
            "quic-transport",
            "certificates",
            "a_dialer_without_the_key_of_its_certificate_is_refused",
        ),
    ),
    bug(
        "expired-accepted",
        "an expired certificate is good",
        test("certs", "verify", "j4_j5_validity_is_checked"),
    ),
    bug(
        "expired-authority-accepted",
        "an expired CA may vouch",
        test("certs", "verify", "an_expired_ca_is_refused"),
    ),
    bug(
        "revoked-accepted",
        "a certificate that its CA has revoked is good",
        test(
            "certs",
            "revocation",
            "j15_a_revoked_certificate_is_refused",
        ),
    ),
    bug(
        "other-cluster-accepted",
        "an identity of another cluster is good",
        test("certs", "verify", "j8_another_clusters_identity_is_refused"),
    ),
    bug(
        "request-of-somebody-else-signed",
        "a CA signs a request for whom it is told, though it names somebody else",
        test("certs", "request", "wrong_requests_are_refused"),
    ),
    // Backups.
    bug(
        "backup-of-what-is-saved",
        "a backup has what the file has, and not what was acknowledged since",
        test("node-bin", "backup", "a_backup_has_what_was_acknowledged"),
    ),
    bug(
        "restored-revisions-repeated",
        "a restored cluster gives revisions again that clients of the old one have seen",
        test("node-bin", "backup", "a_backup_has_what_was_acknowledged"),
    ),
    bug(
        "first-round-counted",
        "everybody counts as caught up in the first round of a new leader",
        cluster("membership::f7_a_learner_that_lags_is_not_promoted_by_the_next_leader"),
    ),
    bug(
        "change-told-as-not-begun",
        "a change of the members that was begun is told as one that was not when the node stops",
        test(
            "consensus",
            "driver",
            "a_change_that_was_begun_is_unknown_after_a_stop",
        ),
    ),
    bug(
        "late-answer-forgotten",
        "a follower that has asked again takes no answer to its first question",
        cluster("reads::h8_a_follower_far_from_its_leader_reads"),
    ),
    bug(
        "large-frame-may-stall",
        "a client may take as long as it likes with a large frame",
        test(
            "quic-transport",
            "floods",
            "i11_a_large_frame_that_stalls_gives_its_room_to_others",
        ),
    ),
    bug(
        "recovered-numbers-repeated",
        "a member that goes on alone gives revisions again that clients have seen of lost entries",
        test("node-bin", "backup", "who_goes_on_alone_repeats_no_number"),
    ),
    // The network.
    bug(
        "each-loss-is-congestion",
        "each packet that is lost is taken for congestion",
        test(
            "tests",
            "simulation",
            "network::some_loss_does_not_make_a_link_narrow",
        ),
    ),
    bug(
        "much-loss-is-none",
        "a link is used as a good one whatever is lost, and so overrun where it is full",
        unit(
            "quic-transport",
            "congestion::tests::much_loss_is_congestion",
        ),
    ),
    bug(
        "queue-taken-for-path",
        "what waits in a queue counts as what a path takes",
        unit(
            "quic-transport",
            "congestion::tests::a_queue_makes_no_floor",
        ),
    ),
    bug(
        "nothing-is-copied",
        "what is lost is sent again when it is missed, and no sooner",
        test(
            "tests",
            "simulation",
            "network::some_loss_makes_few_writes_slow",
        ),
    ),
    bug(
        "copies-count-again",
        "what came in a copy counts once more when the stream has it",
        test("quic-transport", "copies", "what_comes_twice_counts_once"),
    ),
    bug(
        "gap-without-bound",
        "all that lies behind a gap in a lane is kept, however much it is",
        unit(
            "quic-transport",
            "copies::input::tests::little_is_kept_behind_a_gap",
        ),
    ),
    // Bounds.
    bug(
        "frame-length-unlimited",
        "a frame may have any length",
        test(
            "quic-transport",
            "hostile",
            "i1_i2_i4_broken_frames_close_that_connection_with_their_code_and_nothing_else",
        ),
    ),
    bug(
        "send-queue-unbounded",
        "what waits for a slow peer has no bound",
        test(
            "quic-transport",
            "floods",
            "d10_a_peer_that_never_reads_costs_its_queue",
        ),
    ),
];
