//! What the `raft` crate logs through slog, as `tracing` events of target `raft`.
//!
//! One level quieter: what `raft` calls "info" is the course of an election, of interest when
//! debugging. The decisions an operator needs are events of this crate.

use slog::{Drain, KV, Logger, OwnedKVList, Record};
use tracing::level_filters::LevelFilter;

/// A logger to give to `raft`, whose events carry the node.
pub(crate) fn logger(node: u64) -> Logger {
    Logger::root(Bridge { node }, slog::o!())
}

/// Fields whose values have commands in them, which are not for the log: messages and entries, whole.
const WITHHELD: [&str; 2] = ["msg", "ents"];

struct Bridge {
    node: u64,
}

impl Drain for Bridge {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::Level::ERROR,
            slog::Level::Warning => tracing::Level::WARN,
            slog::Level::Info => tracing::Level::DEBUG,
            slog::Level::Debug | slog::Level::Trace => tracing::Level::TRACE,
        };
        // `raft` logs on its hot path, so the cheap question comes first.
        if level > LevelFilter::current() {
            return Ok(());
        }
        let node = self.node;
        let mut fields = Fields(String::new());
        record
            .kv()
            .serialize(record, &mut fields)
            .expect("writing to a string does not fail");
        let (msg, fields) = (record.msg(), fields.0);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "raft", node, %fields, "{msg}"),
            tracing::Level::WARN => tracing::warn!(target: "raft", node, %fields, "{msg}"),
            tracing::Level::DEBUG => tracing::debug!(target: "raft", node, %fields, "{msg}"),
            _ => tracing::trace!(target: "raft", node, %fields, "{msg}"),
        }
        Ok(())
    }
}

struct Fields(String);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        use std::fmt::Write;
        let space = if self.0.is_empty() { "" } else { " " };
        match WITHHELD.contains(&key) {
            true => write!(self.0, "{space}{key}=withheld")?,
            false => write!(self.0, "{space}{key}={value}")?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slog::Serializer;

    use super::*;

    /// Numbers are written, commands are not.
    #[test]
    fn commands_are_withheld() {
        let mut fields = Fields(String::new());
        let mut emit = |key, value| fields.emit_arguments(key, &format_args!("{value}"));
        for (key, value) in [("term", "7"), ("msg", "put key value"), ("ents", "[put]")] {
            emit(key, value).expect("writing to a string does not fail");
        }
        assert_eq!(fields.0, "term=7 msg=withheld ents=withheld");
    }
}
