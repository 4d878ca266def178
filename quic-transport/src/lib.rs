//! Typed messages between verified identities over QUIC, for any service.
//!
//! A [`Transport`] keeps one mutually authenticated connection to every node in its address book,
//! accepts nodes, clients, readers and admins of the same cluster, and carries messages on [`Lane`]s
//! and calls with deadlines. A name is an identity proved by a certificate; an address is a hint.
//!
//! What it never does:
//! - let anything count before both sides have agreed: certificate, cluster, service, version;
//! - wait in [`Peer::try_send`]: a message is queued within bounds or given back;
//! - queue for a peer that is not connected;
//! - repeat a call, or hide whether it may have run;
//! - know a runtime: it runs on any `quinn::Runtime`, and its futures can be awaited anywhere;
//! - know what it carries: Raft, here, is one service among others.
//!
//! ```
//! use std::{net::SocketAddr, time::Duration};
//! use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
//! use quorate_quic_transport::{Config, Inbound, Message, Transport, runtime::IoThread};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Ping(String);
//! impl Message for Ping { const KIND: u16 = 1; }
//! #[derive(Serialize, Deserialize, Debug, PartialEq)]
//! struct Pong(String);
//! impl Message for Pong { const KIND: u16 = 2; }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ca = Ca::generate(&ClusterName::new("c1")?, &CaOptions::default())?;
//! let issue = |id| ca.issue(&Subject::node(id)?, &IssueOptions::default())
//!     .map_err(Box::<dyn std::error::Error>::from);
//! let any = SocketAddr::from(([127, 0, 0, 1], 0));
//! let io = IoThread::spawn("doc")?;
//! let (one, mut inbox) =
//!     Transport::bind(Config::new("ping", any), issue(1)?.credentials()?, io.runtime())?;
//! let (two, mut events) =
//!     Transport::bind(Config::new("ping", any), issue(2)?.credentials()?, io.runtime())?;
//!
//! two.set_peer(one.identity().clone(), vec![one.local_addr()])?;
//! futures_lite::future::block_on(async {
//!     // `Up` is the first thing a service hears of a peer.
//!     assert!(matches!(events.recv().await, Some(Inbound::Up(_))));
//!     let server = async {
//!         while let Some(inbound) = inbox.recv().await {
//!             if let Inbound::Call(call) = inbound {
//!                 let Ping(text) = call.decode().unwrap();
//!                 call.reply.send(&Pong(text));
//!                 break;
//!             }
//!         }
//!     };
//!     let peer = two.peer(one.identity()).unwrap();
//!     let answer = peer.call::<Ping, Pong>(Ping("hello".into()), Duration::from_secs(5));
//!     let (answer, ()) = futures_lite::future::zip(answer, server).await;
//!     assert_eq!(answer.unwrap(), Pong("hello".into()));
//!     two.shutdown(Duration::from_secs(1)).await;
//!     one.shutdown(Duration::from_secs(1)).await;
//! });
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod accept;
mod backoff;
mod budget;
mod call;
mod close;
mod config;
mod congestion;
mod connection;
mod copies;
mod credentials;
mod dial;
mod environment;
mod failures;
mod frame;
mod hello;
mod inbox;
mod large_frames;
mod link;
mod message;
mod origins;
mod outbox;
mod peer;
mod pending;
mod planted;
mod quic;
mod rate;
mod reader;
mod rng;
pub mod runtime;
mod shared;
mod signal;
mod socket;
mod tls;
mod transport;

pub use call::{CallError, IncomingCall, NotSent, Ran, Refusal, Reply};
pub use close::{CloseCode, CloseReason, HandshakeError, Refused};
pub use config::{Config, ConfigError, Instance, Limits, Timings};
pub use credentials::OtherIdentity;
pub use environment::{Environment, System};
pub use hello::{Admit, PeerUp};
pub use inbox::{Inbound, Inbox};
pub use message::{DecodeError, Lane, Message, Received};
pub use peer::{Peer, PeerState, PeerStatus, QueueDepth, Rejected};
pub use transport::{BindError, NotAPeer, Transport};

/// Whose `Credentials` a [`Transport`] is bound with, and whose `Identity` peers have.
pub use quorate_certs;

/// The TLS implementation whose cryptography an [`Environment`] chooses.
pub use rustls;

/// The QUIC implementation whose `Runtime` and socket traits appear in this crate's API.
pub use quinn;
