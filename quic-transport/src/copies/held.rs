//! The bytes of a lane, put in order.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use super::OVERHEAD_BYTES;
use crate::planted;

/// What is known of a lane: everything before `next`, and pieces behind it.
///
/// Invariant: `bytes` is the sum over the pieces of their bytes and [`OVERHEAD_BYTES`].
#[derive(Debug)]
pub(super) struct Held {
    next: u64,
    pieces: BTreeMap<u64, BytesMut>,
    bytes: usize,
}

impl Held {
    /// Everything before `next` is known.
    pub(super) fn new(next: u64) -> Self {
        Self {
            next,
            pieces: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The first byte that is not known, but for what [`take`](Self::take) gives.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What of `bytes`, which are at `offset`, comes next, if any does. What comes later is kept.
    pub(super) fn put(&mut self, offset: u64, mut bytes: Bytes) -> Option<Bytes> {
        if offset > self.next {
            self.keep(offset, &bytes);
            return None;
        }
        let known = match planted::is("copies-count-again") {
            true => 0,
            false => self.next - offset,
        };
        if known >= bytes.len() as u64 {
            return None;
        }
        bytes.advance(known as usize);
        self.next += bytes.len() as u64;
        Some(bytes)
    }

    /// What was kept and comes next.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        while let Some(first) = self.pieces.first_entry()
            && *first.key() <= self.next
        {
            let (offset, bytes) = first.remove_entry();
            self.bytes -= bytes.len() + OVERHEAD_BYTES;
            if let Some(news) = self.put(offset, bytes.freeze()) {
                return Some(news);
            }
        }
        None
    }

    /// A copy: the packet that it came in is longer, and would stay in memory.
    fn keep(&mut self, offset: u64, bytes: &[u8]) {
        let before = self.pieces.range_mut(..=offset).next_back();
        if let Some((begin, piece)) = before
            && let Some(known) = (begin + piece.len() as u64).checked_sub(offset)
        {
            let news = bytes.get(known as usize..).unwrap_or_default();
            piece.extend_from_slice(news);
            self.bytes += news.len();
            return;
        }
        self.pieces.insert(offset, BytesMut::from(bytes));
        self.bytes += bytes.len() + OVERHEAD_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// In whatever order pieces come, and however they overlap, every byte comes out once and in its place.
    #[test]
    fn every_byte_comes_out_once() {
        let text: Vec<u8> = (0..200).collect();
        let rng = Rng::new(1);
        let below = |end: usize| (rng.next() % end as u64) as usize;
        for _ in 0..2_000 {
            let mut held = Held::new(1);
            let mut found = vec![0];
            while found.len() < text.len() {
                let begin = below(text.len());
                let end = begin + below(text.len() - begin + 1).min(30);
                let bytes = Bytes::copy_from_slice(&text[begin..end]);
                let news = held.put(begin as u64, bytes);
                found.extend_from_slice(&news.unwrap_or_default());
                while let Some(news) = held.take() {
                    assert!(!news.is_empty());
                    found.extend_from_slice(&news);
                }
                let sum = held.pieces.values().map(|it| it.len() + OVERHEAD_BYTES);
                assert_eq!(held.bytes(), sum.sum::<usize>());
                assert_eq!(held.next(), found.len() as u64);
                assert_eq!(found, text[..found.len()]);
            }
            assert_eq!(held.bytes(), 0, "nothing is left");
        }
    }

    /// Byte after byte is one piece.
    #[test]
    fn neighbours_become_one() {
        let mut held = Held::new(0);
        for offset in 1..=1_000 {
            assert_eq!(held.put(offset, Bytes::from_static(b"x")), None);
        }
        assert_eq!(held.bytes(), 1_000 + OVERHEAD_BYTES);
    }
}
