//! What of users' bytes may be seen in logs: how many they are.

use std::fmt;

/// Bytes whose debug form, which may end in a log, shows their number only: they are the users' secrets.
pub(crate) struct Size<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Size<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::driver::{Batch, Chunk, Command, Stale};
    use crate::entry::{Entry, ORIGIN};
    use crate::message::{Body, Message, Transfer};
    use crate::types::Term;

    const SECRET: &str = "secret";

    /// Nothing that carries what users write shows it; how long it is may be seen.
    #[test]
    fn debug_forms_show_no_bytes_of_users() {
        let secret = || Bytes::from_static(SECRET.as_bytes());
        let entry = Entry::command(ORIGIN, secret());
        let append = Message {
            term: Term::new(1),
            body: Body::Append {
                previous: ORIGIN,
                commit: ORIGIN.index,
                entries: vec![entry.clone()],
            },
        };
        let command = Command {
            id: ORIGIN,
            data: secret(),
        };
        let batch = Batch {
            commands: vec![command.clone()],
            last: ORIGIN,
        };
        let chunk = Chunk {
            data: secret(),
            next: Some(secret()),
        };
        let request = Transfer::Request {
            last: ORIGIN,
            after: secret(),
        };
        let piece = Body::Transfer(Transfer::Chunk {
            last: ORIGIN,
            after: secret(),
            data: secret(),
            next: Some(secret()),
        });
        let stale = Stale {
            answer: secret(),
            leader_silent_for: None,
        };
        for shown in [
            format!("{entry:?}"),
            format!("{append:?}"),
            format!("{command:?}"),
            format!("{batch:?}"),
            format!("{chunk:?}"),
            format!("{request:?}"),
            format!("{piece:?}"),
            format!("{stale:?}"),
        ] {
            assert!(!shown.contains(SECRET), "{shown}");
            assert!(shown.contains("6 bytes"), "{shown}");
        }
    }
}
