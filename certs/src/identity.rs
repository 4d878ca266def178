//! Identities: names, subjects, and the one URI form they have inside a certificate.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// Longest cluster, client, reader or admin name, in bytes: a DNS label (RFC 1035 section 2.3.4), because
/// the cluster name is one in [`Identity::server_name`].
pub const NAME_BYTES_MAX: usize = 63;

/// Longest identity URI that is parsed, in bytes. The longest valid one has 143; SPIFFE's own bound
/// of 2048 would only let more junk into logs.
pub const URI_BYTES_MAX: usize = 256;

const SCHEME: &str = "spiffe://";

/// Name of a cluster, which is also its trust domain.
///
/// Invariant: a lower-case DNS label, i.e. 1 to [`NAME_BYTES_MAX`] bytes of `[a-z0-9-]` that start
/// and end alphanumeric. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Checks `name` and keeps it. Errors: [`IdentityError::BadClusterName`].
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        if is_label(name, b"-") {
            Ok(Self(name.into()))
        } else {
            Err(IdentityError::BadClusterName {
                name: excerpt(name),
            })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of a client, a reader or an admin.
///
/// Invariant: 1 to [`NAME_BYTES_MAX`] bytes of `[a-z0-9._-]` that start and end alphanumeric: a
/// SPIFFE path segment (SPIFFE-ID section 2.2) that can be neither `.` nor `..`, without upper case
/// so that no two names differ by case only. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `name` and keeps it. Errors: [`IdentityError::BadName`].
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        if is_label(name, b"-._") {
            Ok(Self(name.into()))
        } else {
            Err(IdentityError::BadName {
                name: excerpt(name),
            })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a certificate's holder is for. Authorization is by this, never by the TLS key usages, which
/// only say who may dial and who may answer. A new role comes last: services send roles by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A member of the cluster: dials and answers.
    Node,
    /// A user of the replicated service: dials only.
    Client,
    /// Someone who may change the cluster itself: dials only.
    Admin,
    /// A user of the replicated service who may look and change nothing: dials only.
    Reader,
}

impl Role {
    /// The first path segment of the identity URI: `node`, `client`, `admin` or `reader`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
            Self::Admin => "admin",
            Self::Reader => "reader",
        }
    }
}

/// Whom a certificate speaks for, inside its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The node with this id. Raft uses 0 for "nobody", so no node can have it.
    Node(NonZeroU64),
    /// The client with this name.
    Client(Name),
    /// The admin with this name.
    Admin(Name),
    /// The reader with this name.
    Reader(Name),
}

impl Subject {
    /// The node `id`. Errors: [`IdentityError::BadNodeId`] for 0.
    pub fn node(id: u64) -> Result<Self, IdentityError> {
        match NonZeroU64::new(id) {
            Some(id) => Ok(Self::Node(id)),
            None => Err(IdentityError::BadNodeId { id: "0".into() }),
        }
    }

    /// The client called `name`. Errors: [`IdentityError::BadName`].
    pub fn client(name: &str) -> Result<Self, IdentityError> {
        Name::new(name).map(Self::Client)
    }

    /// The admin called `name`. Errors: [`IdentityError::BadName`].
    pub fn admin(name: &str) -> Result<Self, IdentityError> {
        Name::new(name).map(Self::Admin)
    }

    /// The reader called `name`. Errors: [`IdentityError::BadName`].
    pub fn reader(name: &str) -> Result<Self, IdentityError> {
        Name::new(name).map(Self::Reader)
    }

    /// What the subject is for.
    pub fn role(&self) -> Role {
        match self {
            Self::Node(_) => Role::Node,
            Self::Client(_) => Role::Client,
            Self::Admin(_) => Role::Admin,
            Self::Reader(_) => Role::Reader,
        }
    }
}

/// Writes `node/7` or `client/alice`: the path of the identity URI.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "{}/{id}", Role::Node.as_str()),
            Self::Client(name) => write!(f, "{}/{name}", Role::Client.as_str()),
            Self::Admin(name) => write!(f, "{}/{name}", Role::Admin.as_str()),
            Self::Reader(name) => write!(f, "{}/{name}", Role::Reader.as_str()),
        }
    }
}

/// Who a peer is: a subject in a cluster. Text form: `spiffe://<cluster>/<role>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    /// The cluster, i.e. the trust domain.
    pub cluster: ClusterName,
    /// Whom inside it.
    pub subject: Subject,
}

impl Identity {
    /// `subject` of `cluster`.
    pub fn new(cluster: ClusterName, subject: Subject) -> Self {
        Self { cluster, subject }
    }

    /// The URI a certificate carries, e.g. `spiffe://orders/node/7`.
    pub fn uri(&self) -> String {
        self.to_string()
    }

    /// A number for this identity: the first eight bytes of the SHA-256 of its [`uri`](Self::uri). Not even who may
    /// choose names finds two with the same number, or one with that of another, in less than some 2^32 or 2^64 tries.
    pub fn fingerprint(&self) -> u64 {
        let digest = digest(&SHA256, self.uri().as_bytes());
        let first = digest.as_ref().first_chunk();
        u64::from_le_bytes(*first.expect("SHA-256 has 32 bytes"))
    }

    /// Parses an identity URI, strictly: exactly what [`Identity::uri`] writes is accepted, so each
    /// identity has one spelling and comparing text and comparing identities agree.
    ///
    /// Errors: which rule the text breaks. A query, fragment, port, user or percent-encoding is
    /// [`IdentityError::ForbiddenCharacter`] (SPIFFE-ID section 2); it could otherwise make two
    /// parsers read two identities from one text.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        if uri.len() > URI_BYTES_MAX {
            return Err(IdentityError::TooLong { bytes: uri.len() });
        }
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| IdentityError::NotSpiffe { uri: excerpt(uri) })?;
        if let Some(character) = rest.chars().find(|c| !is_uri_character(*c)) {
            return Err(IdentityError::ForbiddenCharacter { character });
        }
        let mut segments = rest.split('/');
        let (Some(cluster), Some(role), Some(id), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(IdentityError::BadPath { uri: excerpt(uri) });
        };
        Ok(Self {
            cluster: ClusterName::new(cluster)?,
            subject: subject_from_path(role, id)?,
        })
    }

    /// What the holder is for.
    pub fn role(&self) -> Role {
        self.subject.role()
    }

    /// The node id, if this is a node.
    pub fn node_id(&self) -> Option<NonZeroU64> {
        match self.subject {
            Subject::Node(id) => Some(id),
            Subject::Client(_) | Subject::Admin(_) | Subject::Reader(_) => None,
        }
    }

    /// The name a dialer asks TLS for, `n<id>.<cluster>.quorate.invalid`; `None` unless a node.
    ///
    /// webpki matches DNS names but not URIs, hence this second spelling of the same identity.
    /// `.invalid` never resolves (RFC 2606 section 2), so it can not be mistaken for an address.
    pub fn server_name(&self) -> Option<String> {
        self.node_id()
            .map(|id| format!("n{id}.{}", dns_suffix(&self.cluster)))
    }
}

/// The DNS subtree that all node names of `cluster` are in.
pub(crate) fn dns_suffix(cluster: &ClusterName) -> String {
    format!("{cluster}.quorate.invalid")
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.subject)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::from_uri(uri)
    }
}

impl TryFrom<String> for Identity {
    type Error = IdentityError;

    fn try_from(uri: String) -> Result<Self, Self::Error> {
        Self::from_uri(&uri)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.uri()
    }
}

/// The text conversions that both kinds of name share.
macro_rules! name_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(name: String) -> Result<Self, Self::Error> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_conversions!(ClusterName);
name_conversions!(Name);

/// Why a text is not a name or an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not a lower-case DNS label.
    #[error(
        "cluster name {name:?} is not valid: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', \
         starting and ending with a letter or digit"
    )]
    BadClusterName {
        /// The text, shortened.
        name: String,
    },
    /// Not a client, reader or admin name.
    #[error(
        "name {name:?} is not valid: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '.' and '_', \
         starting and ending with a letter or digit"
    )]
    BadName {
        /// The text, shortened.
        name: String,
    },
    /// Not a node id.
    #[error(
        "node id {id:?} is not valid: use a whole number from 1 to {}, without leading zeros",
        u64::MAX
    )]
    BadNodeId {
        /// The text, shortened.
        id: String,
    },
    /// The first path segment is no role of ours.
    #[error("role {role:?} is unknown: use node, client, reader or admin")]
    UnknownRole {
        /// The text, shortened.
        role: String,
    },
    /// Another scheme, or none.
    #[error("{uri:?} is not an identity: it must begin with {SCHEME}")]
    NotSpiffe {
        /// The text, shortened.
        uri: String,
    },
    /// Not three segments.
    #[error("{uri:?} is not an identity: write {SCHEME}<cluster>/<node|client|reader|admin>/<id>")]
    BadPath {
        /// The text, shortened.
        uri: String,
    },
    /// A character that has no place in an identity, such as `?`, `#`, `:`, `@` or `%`.
    #[error(
        "character {character:?} is not allowed in an identity: it has no query, fragment, port, \
         user, upper case or percent-encoding"
    )]
    ForbiddenCharacter {
        /// The first such character.
        character: char,
    },
    /// Longer than [`URI_BYTES_MAX`].
    #[error("identity of {bytes} bytes is too long: at most {URI_BYTES_MAX} are read")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

fn subject_from_path(role: &str, id: &str) -> Result<Subject, IdentityError> {
    match role {
        "node" => node_id_from(id).map(Subject::Node),
        "client" => Subject::client(id),
        "admin" => Subject::admin(id),
        "reader" => Subject::reader(id),
        _ => Err(IdentityError::UnknownRole {
            role: excerpt(role),
        }),
    }
}

fn node_id_from(id: &str) -> Result<NonZeroU64, IdentityError> {
    // `u64::from_str` also takes `+7` and `007`: two spellings of one identity.
    let canonical = id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0');
    let parsed = if canonical { id.parse().ok() } else { None };
    parsed.ok_or_else(|| IdentityError::BadNodeId { id: excerpt(id) })
}

fn is_uri_character(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '/' | '-' | '.' | '_')
}

fn is_label(text: &str, punctuation: &[u8]) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes
            .iter()
            .all(|b| alphanumeric(b) || punctuation.contains(b))
}

/// Enough of an unwelcome text to recognise it in a message.
fn excerpt(text: &str) -> String {
    const CHARACTERS_MAX: usize = 96;
    text.chars().take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every identity has exactly one spelling, and parsing it gives the identity back.
    #[test]
    fn uris_round_trip() {
        let cluster = ClusterName::new("orders-2").unwrap();
        let subjects = [
            (Subject::node(7).unwrap(), "spiffe://orders-2/node/7"),
            (
                Subject::node(u64::MAX).unwrap(),
                "spiffe://orders-2/node/18446744073709551615",
            ),
            (
                Subject::client("a.b_c-d").unwrap(),
                "spiffe://orders-2/client/a.b_c-d",
            ),
            (
                Subject::admin("eva").unwrap(),
                "spiffe://orders-2/admin/eva",
            ),
            (
                Subject::reader("grafana").unwrap(),
                "spiffe://orders-2/reader/grafana",
            ),
        ];
        for (subject, uri) in subjects {
            let identity = Identity::new(cluster.clone(), subject);
            assert_eq!(identity.uri(), uri);
            assert_eq!(Identity::from_uri(uri), Ok(identity));
        }
    }

    /// Everything that SPIFFE forbids, and everything that would be a second spelling, is refused.
    #[test]
    fn uris_are_parsed_strictly() {
        let long_name = "a".repeat(NAME_BYTES_MAX + 1);
        let refused = [
            "",
            "spiffe://",
            "spiffe:///node/1",
            "spiffe://c1",
            "spiffe://c1/",
            "spiffe://c1/node",
            "spiffe://c1/node/",
            "spiffe://c1//1",
            "spiffe://c1/node//1",
            "spiffe://c1/node/1/",
            "spiffe://c1/node/1/extra",
            "spiffe://c1/node/1?x=1",
            "spiffe://c1/node/1?",
            "spiffe://c1/node/1#x",
            "spiffe://c1/node/1#",
            "spiffe://c1:443/node/1",
            "spiffe://user@c1/node/1",
            "spiffe://C1/node/1",
            "SPIFFE://c1/node/1",
            "https://c1/node/1",
            "spiffe:/c1/node/1",
            " spiffe://c1/node/1",
            "spiffe://c1/node/1 ",
            "spiffe://c1/node/1\n",
            "spiffe://c1/node/1\0",
            "spiffe://c1/node/%31",
            "spiffe://c1/Node/1",
            "spiffe://c1/learner/1",
            "spiffe://c1/Reader/a",
            "spiffe://c1/readers/a",
            "spiffe://c1/read/a",
            "spiffe://c1/reader",
            "spiffe://c1/reader/",
            "spiffe://c1/reader/..",
            "spiffe://c1/reader/a/b",
            "spiffe://c1/node/0",
            "spiffe://c1/node/01",
            "spiffe://c1/node/+1",
            "spiffe://c1/node/-1",
            "spiffe://c1/node/one",
            "spiffe://c1/node/18446744073709551616",
            "spiffe://c1/client/.",
            "spiffe://c1/client/..",
            "spiffe://c1/client/-a",
            "spiffe://c1/client/Alice",
            "spiffe://c1/client/al\u{131}ce",
            "spiffe://-c1/node/1",
            "spiffe://c1-/node/1",
            "spiffe://c.1/node/1",
            "spiffe://c_1/node/1",
            "spiffe://c1\\node\\1",
            &format!("spiffe://{long_name}/node/1"),
            &format!("spiffe://c1/client/{long_name}"),
            &format!("spiffe://c1/client/{}", "a".repeat(100_000)),
        ];
        for uri in refused {
            assert!(Identity::from_uri(uri).is_err(), "accepted {uri:?}");
        }
        // Negative control: the one that all of them are near is accepted.
        assert!(Identity::from_uri("spiffe://c1/node/1").is_ok());
    }

    /// A role that is not known is told so, with those that are.
    #[test]
    fn unknown_roles_are_named() {
        let error = Identity::from_uri("spiffe://c1/writer/a").unwrap_err();
        assert_eq!(
            error.to_string(),
            "role \"writer\" is unknown: use node, client, reader or admin"
        );
    }

    /// Only nodes can be dialed, under a name that is a valid DNS name even at its longest.
    #[test]
    fn server_names() {
        let cluster = ClusterName::new(&"c".repeat(NAME_BYTES_MAX)).unwrap();
        let node = Identity::new(cluster.clone(), Subject::node(u64::MAX).unwrap());
        let name = node.server_name().unwrap();
        assert!(name.ends_with(".quorate.invalid"));
        assert!(rustls::pki_types::DnsName::try_from(name).is_ok());
        for other in [Subject::client, Subject::admin, Subject::reader] {
            let other = Identity::new(cluster.clone(), other("x").unwrap());
            assert_eq!(other.server_name(), None);
        }
    }

    /// serde uses the same text and the same strictness.
    #[test]
    fn serde_is_the_uri() {
        let identity = Identity::from_uri("spiffe://c1/admin/eva").unwrap();
        let json = serde_json::to_string(&identity).unwrap();
        assert_eq!(json, "\"spiffe://c1/admin/eva\"");
        assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
        assert!(serde_json::from_str::<Identity>("\"spiffe://c1/admin/Eva\"").is_err());
        assert!(serde_json::from_str::<ClusterName>("\"C1\"").is_err());
    }

    /// Numbers stand in logs and files, so they stay what they are; and each identity has its own, roles told apart.
    #[test]
    fn fingerprints_stay() {
        let of = |uri: &str| Identity::from_uri(uri).unwrap().fingerprint();
        assert_eq!(of("spiffe://orders/client/app"), 16_514_278_841_505_474_588);
        let all = ["client/app", "reader/app", "client/apq"]
            .map(|it| of(&format!("spiffe://orders/{it}")));
        assert!(all[0] != all[1] && all[0] != all[2], "{all:?}");
    }
}
