//! What happened in a run: a hash over all of it, and the lines worth reading.

use ring::digest::{Context, SHA256};

/// Every packet byte and every line goes into the hash; the lines are kept if wanted.
#[derive(Clone)]
pub(super) struct Trace {
    hash: Context,
    lines: Vec<String>,
    keep: bool,
}

impl Trace {
    pub(super) fn new(keep: bool) -> Self {
        Self {
            hash: Context::new(&SHA256),
            lines: Vec::new(),
            keep,
        }
    }

    pub(super) fn hash(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.hash.update(part);
        }
    }

    pub(super) fn note(&mut self, now: u64, line: &str) {
        self.hash(&[&now.to_le_bytes(), line.as_bytes()]);
        if self.keep {
            let ms = now as f64 / 1e6;
            self.lines.push(format!("{ms:>12.3} {line}"));
        }
    }

    pub(super) fn digest(&self) -> u64 {
        let digest = self.hash.clone().finish();
        let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        u64::from_be_bytes(*first)
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}
