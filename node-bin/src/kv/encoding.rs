//! How commands and queries, and what follows from them, are written: one byte of version and a postcard
//! body.
//!
//! Members must agree on what every command does, so a new version is proposed only once all of them
//! know it.

use bytes::Bytes;
use postcard::ser_flavors::Size;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::invalid::Invalid;

/// The version in front of every encoding.
pub(super) const VERSION: u8 = 1;

/// Room for most answers to writes: then memory for them is allocated once.
pub(super) const SHORT_BYTES: usize = 24;

/// Why encoding never fails.
const WRITABLE: &str = "these types have no form that postcard cannot write";

macro_rules! codec {
    ($($name:ident),*) => {$(
        impl $name {
            /// The encoding, with its version in front.
            #[must_use]
            pub fn encode(&self) -> bytes::Bytes {
                $crate::kv::encoding::encode(self)
            }

            /// Decodes exactly what [`encode`](Self::encode) returns. Never allocates more than a
            /// small multiple of the length of `bytes`. Sizes are not checked here.
            ///
            /// # Errors
            ///
            /// [`Invalid::UnknownVersion`], or [`Invalid::Malformed`] for anything else that is
            /// wrong, bytes left over included.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::kv::Invalid> {
                $crate::kv::encoding::decode(bytes)
            }
        }
    )*};
}

pub(super) fn encode(message: &impl Serialize) -> Bytes {
    // Looking twice is less than allocating twice.
    let body = postcard::serialize_with_flavor(message, Size::default()).expect(WRITABLE);
    encode_behind(Vec::with_capacity(1 + body), message).into()
}

/// Puts the encoding behind what is there.
pub(super) fn encode_behind(mut bytes: Vec<u8>, message: &impl Serialize) -> Vec<u8> {
    bytes.push(VERSION);
    postcard::to_extend(message, bytes).expect(WRITABLE)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Invalid> {
    match bytes.split_first() {
        None => Err(Invalid::Malformed),
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(Invalid::Malformed),
        },
        Some((&version, _)) => Err(Invalid::UnknownVersion { version }),
    }
}

pub(super) use codec;
