//! What has been written to an image and is not in its place yet.

use std::collections::BTreeMap;
use std::io;

/// Changes to what lies below: the image, or the image under other changes.
///
/// Invariants: no two of `writes` overlap; none reaches beyond `length`; `kept` is at most `length` and
/// at most the length of what lies below.
#[derive(Debug)]
pub(crate) struct Changes {
    writes: BTreeMap<u64, Vec<u8>>,
    /// How long the image is with them.
    length: u64,
    /// How much of what lies below was never cut off; behind it there is nothing but `writes` and zeros.
    kept: u64,
    bytes: u64,
    /// Whether there is any.
    changed: bool,
}

impl Changes {
    /// No change to an image of `length` bytes.
    pub(crate) fn none(length: u64) -> Self {
        Self {
            writes: BTreeMap::new(),
            length,
            kept: length,
            bytes: 0,
            changed: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.changed
    }

    /// How long the image is with them.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// How much of what lies below is still there.
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    /// How many bytes are to be written, and in how many pieces.
    pub(crate) fn size(&self) -> (u64, usize) {
        (self.bytes, self.writes.len())
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.writes.iter().map(|(offset, data)| (*offset, &**data))
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        self.changed |= length != self.length;
        if length < self.length {
            self.take(length, self.length);
            self.kept = self.kept.min(length);
        }
        self.length = length;
    }

    /// # Panics
    ///
    /// When `data` reaches beyond the length: redb lengthens its file before it writes there.
    pub(crate) fn write(&mut self, offset: u64, data: Vec<u8>) {
        let end = offset + data.len() as u64;
        assert!(
            end <= self.length,
            "a write up to {end} into {} bytes",
            self.length
        );
        if data.is_empty() {
            return;
        }
        self.take(offset, end);
        self.bytes += data.len() as u64;
        self.writes.insert(offset, data);
        self.changed = true;
    }

    /// Adds changes that were made on top of these.
    pub(crate) fn absorb(&mut self, above: Self) {
        self.set_length(above.kept);
        self.set_length(above.length);
        for (offset, data) in above.writes {
            self.write(offset, data);
        }
    }

    /// Overwrites in `out`, which stands at `offset`, what was written there.
    pub(crate) fn overlay(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        for (at, data) in self.writes.range(..end).rev() {
            let data_end = at + data.len() as u64;
            if data_end <= offset {
                break;
            }
            let (from, to) = (offset.max(*at), end.min(data_end));
            out[index(from - offset)..index(to - offset)]
                .copy_from_slice(&data[index(from - at)..index(to - at)]);
        }
    }

    /// Takes out what was written from `from` to `to`, the last piece first.
    pub(crate) fn take(&mut self, from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
        let mut taken = Vec::new();
        while let Some((&at, data)) = self.writes.range(..to).next_back() {
            let end = at + data.len() as u64;
            if end <= from {
                break;
            }
            let mut data = self.writes.remove(&at).expect("found just now");
            self.bytes -= data.len() as u64;
            if end > to {
                let rest = data.split_off(index(to - at));
                self.bytes += rest.len() as u64;
                self.writes.insert(to, rest);
            }
            if at < from {
                let inside = data.split_off(index(from - at));
                self.bytes += data.len() as u64;
                self.writes.insert(at, data);
                data = inside;
            }
            taken.push((at.max(from), data));
        }
        taken
    }
}

/// Reads what `layers`, the lowest first, and what lies `below` them hold at `offset`.
pub(crate) fn read_layers(
    layers: &[&Changes],
    offset: u64,
    out: &mut [u8],
    below: impl FnOnce(&mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let end = offset + out.len() as u64;
    let top = layers.last().expect("at least one layer");
    if end > top.length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // How much of what is asked for the layers from `lowest` on have kept of those under them.
    let kept = |lowest: usize| {
        let kept = layers[lowest..].iter().map(|layer| layer.kept).min();
        index(kept.unwrap_or(end).clamp(offset, end) - offset)
    };
    let (lowest, cut) = out.split_at_mut(kept(0));
    if !lowest.is_empty() {
        below(lowest)?;
    }
    cut.fill(0);
    for (layer, above) in layers.iter().zip(1..) {
        layer.overlay(offset, &mut out[..kept(above)]);
    }
    Ok(())
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance inside of a buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes that overlap in every way, and lengths that shrink and grow, in two layers or absorbed into
    /// one, read back as from an array.
    #[test]
    fn it_reads_like_an_array() {
        let mut state = 1_u64;
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..300 {
            let image: Vec<u8> = (0..64).map(|_| 255).collect();
            let mut model = image.clone();
            let mut below = Changes::none(64);
            let mut above = Changes::none(64);
            for step in 0..30_u8 {
                match draw(8) {
                    0 => {
                        let length = draw(96);
                        above.set_length(length);
                        model.resize(index(length), 0);
                    }
                    1 => {
                        let none = Changes::none(above.length());
                        below.absorb(std::mem::replace(&mut above, none));
                    }
                    _ if model.is_empty() => {}
                    _ => {
                        let from = index(draw(model.len() as u64));
                        let to = from + index(draw((model.len() - from) as u64 + 1));
                        model[from..to].fill(step);
                        above.write(from as u64, vec![step; to - from]);
                    }
                }
                let mut read = vec![7; model.len()];
                let below_all = |out: &mut [u8]| {
                    out.copy_from_slice(&image[..out.len()]);
                    Ok(())
                };
                read_layers(&[&below, &above], 0, &mut read, below_all).unwrap();
                assert_eq!(read, model);
                let bytes: usize = above.writes().map(|(_, data)| data.len()).sum();
                assert_eq!(above.size(), (bytes as u64, above.writes().count()));
            }
        }
    }
}
