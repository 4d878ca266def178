//! The steps of scripts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use quorate_consensus::{
    Body, Entry, MembershipChange, Message, Payload, ProposalToken, ReadToken,
};

use crate::rig::{Fate, Rig, Setup, id};

/// A cluster, and what the reader of the script knows of it already.
pub(crate) struct Stage {
    rig: Rig,
    known: BTreeMap<u64, String>,
    proposals: Vec<ProposalToken>,
    reads: Vec<ReadToken>,
    told: Vec<String>,
    transfers: usize,
    changes: usize,
}

/// The words of a step.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn word(&mut self) -> &'a str {
        self.0.next().expect("one more word in this step")
    }

    fn node(&mut self) -> u64 {
        self.word().parse().expect("a node's number")
    }

    fn nodes(&mut self) -> Vec<u64> {
        nodes(self.word())
    }

    fn rest(self) -> String {
        self.0.collect::<Vec<_>>().join(" ")
    }

    fn end(mut self) {
        let more = self.0.next();
        assert_eq!(more, None, "too many words in this step");
    }
}

fn nodes(list: &str) -> Vec<u64> {
    let nodes = list.split(',').filter(|node| *node != "-");
    nodes
        .map(|node| node.parse().expect("a node's number"))
        .collect()
}

impl Stage {
    /// `cluster voters=3 learners=1 small comparing`, or `preferred=2`
    pub(crate) fn open(step: &str) -> (Self, String) {
        let mut words = step.split_whitespace();
        assert_eq!(
            words.next(),
            Some("cluster"),
            "a script begins with a cluster"
        );
        let (mut voters, mut learners, mut small, mut comparing) = (1, 0, false, false);
        let mut preferred = None;
        for word in words {
            match word.split_once('=') {
                Some(("voters", count)) => voters = count.parse().unwrap(),
                Some(("learners", count)) => learners = count.parse().unwrap(),
                Some(("preferred", node)) => preferred = Some(id(node.parse().unwrap())),
                _ if word == "small" => small = true,
                _ if word == "comparing" => comparing = true,
                _ => panic!("`{word}` is nothing that a cluster has"),
            }
        }
        let mut setup = Setup::voters(voters).learners(learners);
        if small {
            setup = setup.small();
        }
        if preferred.is_some() {
            setup = setup.config(move |config| {
                config.priority = u8::from(Some(config.node) == preferred);
            });
        }
        if comparing {
            setup = setup.config(|config| config.compare_interval = Duration::from_secs(1));
        }
        let mut stage = Self {
            rig: setup.build(),
            known: BTreeMap::new(),
            proposals: Vec::new(),
            reads: Vec::new(),
            told: Vec::new(),
            transfers: 0,
            changes: 0,
        };
        let outcome = stage.news();
        (stage, outcome)
    }

    /// Does it, and says what changed.
    pub(crate) fn step(&mut self, step: &str) -> String {
        let mut words = Words(step.split_whitespace());
        match words.word() {
            "tick" => {
                let count = words.word().parse().expect("a number of ticks");
                self.rig.ticks(count);
            }
            "campaign" => self.rig.campaign(words.node()),
            "propose" => {
                let node = words.node();
                let token = self.rig.propose(node, words.rest());
                self.proposals.push(token);
                return self.news();
            }
            "read" => {
                let token = self.rig.read(words.node());
                self.reads.push(token);
            }
            "isolate" => self.rig.isolate(words.node()),
            "partition" => {
                let (left, right) = (words.nodes(), words.nodes());
                self.rig.partition(&[&left, &right]);
            }
            "heal" => self.rig.heal(),
            "crash" => self.rig.crash(words.node()),
            "crash-keeping" => {
                let (node, kept) = (words.node(), words.node());
                self.rig.crash_keeping(node, kept as usize);
            }
            "restart" => {
                let node = words.node();
                if let Err(error) = self.rig.try_restart(node) {
                    words.end();
                    return format!("n{node} does not start: {error}");
                }
                self.rig.pump();
            }
            "stall-disk" => self.rig.stall_disk(words.node(), true),
            "free-disk" => self.rig.stall_disk(words.node(), false),
            "persist-one" => self.rig.persist_one(words.node()),
            "stall-machine" => self.rig.stall_machine(words.node(), true),
            "free-machine" => self.rig.stall_machine(words.node(), false),
            "checkpoint" => {
                self.rig.checkpoint(words.node());
                self.rig.pump();
            }
            "flip-memory" => self.rig.flip_memory(words.node()),
            "join" => {
                let (node, members) = (words.node(), words.nodes());
                self.rig.join(node, &members);
                self.rig.pump();
            }
            "transfer" => {
                let (node, target) = (words.node(), words.nodes());
                if let Err(error) = self.rig.transfer(node, target.first().copied()) {
                    return format!("refused: {error}");
                }
            }
            "change" => {
                let node = words.node();
                let change = change(words);
                if let Err(error) = self.rig.change(node, &change) {
                    return format!("refused: {error}");
                }
                return self.news();
            }
            "drop" => self.lose(words.word()),
            "deliver-all" => self.rig.net.rule = None,
            "log" => {
                let node = words.node();
                words.end();
                return self.log(node);
            }
            "members" => {
                let node = words.node();
                words.end();
                return self.rig.status(node).membership.to_string();
            }
            "said" => {
                words.end();
                return self.said();
            }
            other => panic!("`{other}` is no step"),
        }
        words.end();
        self.news()
    }

    /// How nodes stand that stand otherwise than before, and what has ended.
    fn news(&mut self) -> String {
        let mut news = String::new();
        for node in (1..=9).filter(|&node| self.rig.knows(node)) {
            let now = match (self.rig.is_up(node), self.rig.stopped(node)) {
                (false, _) => format!("n{node} is down"),
                (true, Some(why)) => format!("n{node} stops: {why}"),
                (true, None) => self.rig.status(node).to_string(),
            };
            if self.known.get(&node) != Some(&now) {
                writeln!(news, "{now}").unwrap();
                self.known.insert(node, now);
            }
        }
        for ended in self.ended() {
            if !self.told.contains(&ended) {
                writeln!(news, "{ended}").unwrap();
                self.told.push(ended);
            }
        }
        news.trim_end().to_owned()
    }

    fn ended(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for (token, number) in self.proposals.iter().zip(1..) {
            match self.rig.outcome(*token) {
                Some(Ok(at)) => ended.push(format!("proposal {number} is applied at {at}")),
                Some(Err(error)) => ended.push(format!("proposal {number} fails: {error}")),
                None => {}
            }
        }
        for (token, number) in self.reads.iter().zip(1..) {
            match self.rig.read_outcome(*token) {
                Some(Ok(seen)) => ended.push(format!("read {number} sees everything up to {seen}")),
                Some(Err(error)) => ended.push(format!("read {number} fails: {error}")),
                None => {}
            }
        }
        for (node, outcome) in &self.rig.transfers()[self.transfers..] {
            ended.push(match outcome {
                Ok(leader) => format!("n{node} has handed over to {leader}"),
                Err(error) => format!("n{node} has not handed over: {error}"),
            });
        }
        self.transfers = self.rig.transfers().len();
        for (node, outcome) in &self.rig.changes_ended()[self.changes..] {
            ended.push(match outcome {
                Ok(members) => format!("n{node} has changed the members: {members}"),
                Err(error) => format!("n{node} has not changed the members: {error}"),
            });
        }
        self.changes = self.rig.changes_ended().len();
        ended
    }

    /// Messages of one kind are lost from now on.
    fn lose(&mut self, kind: &str) {
        let kind = kind.to_owned();
        assert!(KINDS.contains(&&*kind), "`{kind}` is no kind of message");
        self.rig.net.rule = Some(Box::new(move |_, _, message| {
            match kind_of(message) == kind {
                true => Fate::Drop,
                false => Fate::Deliver,
            }
        }));
    }

    fn log(&self, node: u64) -> String {
        let log = self.rig.durable(node);
        let base = log.base();
        let kept = log.entries().iter();
        let kept = kept.filter(|entry| entry.id.index > base.index);
        let entries: Vec<String> = kept.map(entry_text).collect();
        format!("after {base}: {}", entries.join(", "))
    }

    /// What was said since the last time, in order; the same from one node several times over is said once.
    fn said(&mut self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (from, to, message) in self.rig.sent.drain(..) {
            let line = format!("n{from} -> n{to} {}", message_text(&message));
            if lines.last() != Some(&line) {
                lines.push(line);
            }
        }
        lines.join("\n")
    }
}

fn change(mut words: Words<'_>) -> MembershipChange {
    let set = |nodes: Vec<u64>| nodes.into_iter().map(id).collect();
    let at = |node: u64| ([127, 0, 0, 1], 7000 + node as u16).into();
    let add = |node, replaces: Option<u64>| MembershipChange::Add {
        node: id(node),
        address: at(node),
        promote: true,
        replaces: replaces.map(id),
    };
    let change = match words.word() {
        "add" => add(words.node(), None),
        "replace" => {
            let (old, new) = (words.node(), words.node());
            add(new, Some(old))
        }
        "remove" => MembershipChange::Remove {
            node: id(words.node()),
        },
        "promote" => MembershipChange::Promote {
            node: id(words.node()),
        },
        "move" => {
            let node = words.node();
            MembershipChange::Move {
                node: id(node),
                address: at(node + 100),
            }
        }
        "set" => MembershipChange::Set {
            voters: set(words.nodes()),
            learners: set(words.nodes()),
            addresses: BTreeMap::new(),
        },
        other => panic!("`{other}` is no change"),
    };
    words.end();
    change
}

fn entry_text(entry: &Entry) -> String {
    let what = match &entry.payload {
        Payload::Empty => "empty".to_owned(),
        Payload::Command(command) => match command.len() {
            0..20 => String::from_utf8_lossy(command).into_owned(),
            long => format!("{long} bytes"),
        },
        Payload::Compare => "compare".to_owned(),
        Payload::Digest { at, .. } => format!("digest after {}", at.index),
        Payload::Membership(members) => format!("[{members}]"),
    };
    format!("{} {what}", entry.id)
}

const KINDS: &[&str] = &[
    "append",
    "accepted",
    "rejected",
    "request-vote",
    "vote",
    "heartbeat",
    "heartbeat-response",
    "timeout-now",
    "snapshot",
    "transfer",
    "leadership-wanted",
    "read-index",
    "read-answer",
    "digest",
];

fn kind_of(message: &Message) -> &'static str {
    match message.body {
        Body::Append { .. } => "append",
        Body::AppendAccepted { .. } => "accepted",
        Body::AppendRejected { .. } => "rejected",
        Body::RequestVote { .. } => "request-vote",
        Body::Vote { .. } => "vote",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatResponse { .. } => "heartbeat-response",
        Body::TimeoutNow => "timeout-now",
        Body::Snapshot { .. } => "snapshot",
        Body::Transfer(_) => "transfer",
        Body::LeadershipWanted { .. } => "leadership-wanted",
        Body::ReadIndex { .. } => "read-index",
        Body::ReadIndexAnswer { .. } => "read-answer",
        Body::Digest { .. } => "digest",
    }
}

fn message_text(message: &Message) -> String {
    let (kind, term) = (kind_of(message), message.term);
    let rest = match &message.body {
        Body::Append {
            previous,
            commit,
            entries,
        } => {
            let entries: Vec<String> = entries.iter().map(entry_text).collect();
            format!("after {previous} commit={commit} [{}]", entries.join(", "))
        }
        Body::AppendAccepted { last, .. } => format!("up to {last}"),
        Body::AppendRejected { previous, hint, .. } => format!("{previous} hint={hint}"),
        Body::RequestVote {
            pre,
            last,
            transfer,
            ..
        } => format!("pre={pre} last={last} transfer={transfer}"),
        Body::Vote { pre, granted, .. } => format!("pre={pre} granted={granted}"),
        Body::Heartbeat { commit, read } => format!("commit={commit} read={}", read.is_some()),
        Body::HeartbeatResponse { read, .. } => format!("read={}", read.is_some()),
        Body::Snapshot { last, membership } => format!("up to {last} {membership}"),
        Body::ReadIndexAnswer { index, .. } => format!("up to {index}"),
        Body::LeadershipWanted { priority } => format!("priority={priority}"),
        Body::TimeoutNow | Body::Transfer(_) | Body::ReadIndex { .. } | Body::Digest { .. } => {
            String::new()
        }
    };
    format!("{kind}@{term} {rest}").trim_end().to_owned()
}
