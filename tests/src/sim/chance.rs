//! Randomness and cryptography of a simulated world: all of it follows from the seed.
//!
//! rustls takes its randomness from a static, so the stream is the thread's: one world a thread at a time.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use quorate_quic_transport::rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use quorate_quic_transport::rustls::{Error, NamedGroup, PeerMisbehaved};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::rng::Rng;

thread_local! {
    static STREAM: RefCell<Rng> = RefCell::new(Rng::new(0));
}

/// Begins the stream of `seed` on this thread.
pub(super) fn begin(seed: u64) {
    STREAM.with(|stream| *stream.borrow_mut() = Rng::stream(seed, "entropy"));
}

pub(super) fn fill(bytes: &mut [u8]) {
    STREAM.with(|stream| {
        let mut stream = stream.borrow_mut();
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&stream.next_u64().to_le_bytes()[..part.len()]);
        }
    });
}

/// The product's provider, with randomness and key shares from the stream. ring draws key shares from
/// the system without asking, hence another implementation of the same curve.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        Arc::new(CryptoProvider {
            secure_random: &Stream,
            kx_groups: vec![&X25519],
            ..(*quorate_certs::provider()).clone()
        })
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

#[derive(Debug)]
struct Stream;

impl SecureRandom for Stream {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill(bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct X25519;

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        fill(&mut secret);
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer
            .try_into()
            .map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let shared = self.secret.diffie_hellman(&peer.into());
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
