//! Who a peer is, and who says so.
//!
//! An [`Identity`] is a cluster and a subject (node, client, reader or admin) written as one SPIFFE URI
//! in a certificate; keys and addresses may change, it does not. A [`Ca`] issues such certificates,
//! [`Credentials`] are what one process holds (key, chain, roots), and [`Trust::verify`] is the one
//! function that decides whose certificate is good: the handshake, the command line and
//! `Credentials` itself all call it, so they can not disagree. A [`Folder`] keeps credentials on disk and
//! renews them in steps that a crash can not tear. A [`Request`] is for keys that never leave the machine on
//! which they were made.
//!
//! This crate never opens a socket, never knows a runtime, never installs or reads rustls' process
//! default provider, and never has a mode that trusts without verifying: a test makes a [`Ca`] in
//! memory instead.
//!
//! ```
//! use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
//!
//! let cluster = ClusterName::new("orders")?;
//! let ca = Ca::generate(&cluster, &CaOptions::default())?;
//! let issued = ca.issue(&Subject::node(1)?, &IssueOptions::default())?;
//! let credentials = issued.credentials()?;
//! assert_eq!(credentials.identity().to_string(), "spiffe://orders/node/1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod ca;
mod credentials;
mod facts;
mod files;
mod folder;
mod identity;
mod inspect;
mod issued;
mod planted;
mod request;
mod revocation;
mod serial;
mod trust;
mod verify_error;

pub use ca::{Ca, CaAlgorithm, CaError, CaOptions, IssueOptions, LIFE_MAX, Record};
pub use credentials::{Credentials, CredentialsError};
pub use files::{BUNDLE_BYTES_MAX, FILE_BYTES_MAX, FileError};
pub use folder::{Folder, FolderError};
pub use identity::{
    ClusterName, Identity, IdentityError, NAME_BYTES_MAX, Name, Role, Subject, URI_BYTES_MAX,
};
pub use inspect::{CertificateInfo, InspectError, inspect, inspect_file};
pub use issued::{
    CERTIFICATE_FILE, Issued, KEY_FILE, NEXT_KEY_FILE, REQUEST_FILE, ROOTS_FILE, Signed,
};
pub use request::{Request, RequestError};
pub use serial::{Serial, SerialError};
pub use trust::{CHAIN_CERTIFICATES_MAX, ROOTS_MAX, Trust, TrustError, Verified, provider};
pub use verify_error::VerifyError;
