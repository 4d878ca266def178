//! Where keys and serial numbers come from.

use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{KeyPair, PKCS_ED25519};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::CaError;

/// What precedes the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 section 7).
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The operating system, or a seed.
pub(super) enum Chance {
    System,
    /// HMAC-SHA-256 of a counter, keyed with the seed.
    Seeded {
        key: hmac::Key,
        draws: AtomicU64,
    },
}

impl Chance {
    pub(super) fn seeded(seed: [u8; 32]) -> Self {
        Self::Seeded {
            key: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            draws: AtomicU64::new(0),
        }
    }

    /// A key for Ed25519, whose signatures need no chance.
    pub(super) fn ed25519(&self) -> Result<KeyPair, CaError> {
        match self {
            Self::System => KeyPair::generate_for(&PKCS_ED25519).map_err(CaError::signing),
            Self::Seeded { .. } => {
                let mut secret = Zeroizing::new([0; 32]);
                self.fill(&mut *secret)?;
                let pkcs8 = Zeroizing::new([&ED25519_PKCS8[..], &secret[..]].concat());
                KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))
                    .map_err(CaError::signing)
            }
        }
    }

    /// A positive serial of exactly 16 bytes with 126 random bits. rcgen's default is a hash of the
    /// public key: two certificates of one key would share it, and be revoked together.
    pub(super) fn serial(&self) -> Result<[u8; 16], CaError> {
        let mut serial = [0; 16];
        self.fill(&mut serial)?;
        // Top bit clear: positive. Next bit set: no leading zero byte, so the length is fixed.
        serial[0] = (serial[0] & 0x3f) | 0x40;
        Ok(serial)
    }

    /// At most 32 bytes.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), CaError> {
        match self {
            Self::System => SystemRandom::new()
                .fill(bytes)
                .map_err(|_| CaError::NoRandomness),
            Self::Seeded { key, draws } => {
                let draw = draws.fetch_add(1, Ordering::Relaxed);
                let tag = hmac::sign(key, &draw.to_le_bytes());
                bytes.copy_from_slice(&tag.as_ref()[..bytes.len()]);
                Ok(())
            }
        }
    }
}
