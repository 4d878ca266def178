//! How a numbered command, and what is said of it, are written.

use bytes::{BufMut, Bytes, BytesMut};

use super::{SLOTS_MAX, Tag};

/// The version in front of a numbered command.
const NUMBERED: u8 = 1;

/// The longest tag: the version, three numbers of 64 bits and one of 16, as Postcard writes them.
pub(super) const TAG_BYTES_MAX: usize = 1 + 3 * 10 + 3;

/// Puts `tag` before `command`.
pub(super) fn join(tag: &Tag, command: &[u8]) -> Bytes {
    let mut whole = Vec::with_capacity(TAG_BYTES_MAX + command.len());
    whole.push(NUMBERED);
    let mut whole = postcard::to_extend(tag, whole)
        .expect("these types have no form that postcard cannot write");
    whole.extend_from_slice(command);
    whole.into()
}

/// Takes apart what [`join`] made; the command is a part of `whole`.
pub(crate) fn split(whole: &Bytes) -> Option<(Tag, Bytes)> {
    let (&version, rest) = whole.split_first()?;
    if version != NUMBERED {
        return None;
    }
    let (tag, command): (Tag, &[u8]) = postcard::take_from_bytes(rest).ok()?;
    (tag.slot < SLOTS_MAX && !command.is_empty()).then(|| (tag, whole.slice_ref(command)))
}

/// What is said of a numbered command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    /// It was carried out, and this is the answer.
    Answer(Bytes),
    /// It was carried out before, and its answer was too long to be kept.
    NotKept,
    /// A later command of its slot, or a later start of its node, has been here: whoever sent it has given it up.
    Late,
    /// It has no number.
    Malformed,
}

impl Said {
    fn number(&self) -> u8 {
        match self {
            Self::Answer(_) => 0,
            Self::NotKept => 1,
            Self::Late => 2,
            Self::Malformed => 3,
        }
    }

    pub(super) fn encode(self) -> Bytes {
        let number = self.number();
        let Self::Answer(answer) = self else {
            return Bytes::copy_from_slice(&[number]);
        };
        let mut whole = BytesMut::with_capacity(1 + answer.len());
        whole.put_u8(number);
        whole.put_slice(&answer);
        whole.freeze()
    }

    /// `None` where it makes no sense: only the state of another program says so.
    pub(crate) fn decode(whole: &Bytes) -> Option<Self> {
        match *whole.first()? {
            0 => Some(Self::Answer(whole.slice(1..))),
            1 => Some(Self::NotKept),
            2 => Some(Self::Late),
            3 => Some(Self::Malformed),
            _ => None,
        }
    }
}
