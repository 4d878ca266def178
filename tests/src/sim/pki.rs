//! Certificates of the simulated cluster: the same in every world and every process.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use quorate::Credentials;
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};

use super::world::{CLIENTS_MAX, NODES_MAX};

/// The time of day when every world begins, and when the certificates were issued.
pub(super) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 24 * 60 * 60)
}

struct Pki {
    nodes: BTreeMap<u64, Credentials>,
    clients: BTreeMap<u64, Credentials>,
}

pub(super) fn node(id: u64) -> Credentials {
    pki().nodes[&id].clone()
}

pub(super) fn client(id: u64) -> Credentials {
    pki().clients[&id].clone()
}

/// Made once: keys and certificates do not depend on the seed.
fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let now = epoch();
        let options = CaOptions {
            now,
            ..CaOptions::default()
        };
        let cluster = ClusterName::new("sim").expect("a valid name");
        let ca = Ca::from_seed(&cluster, &options, [7; 32]).expect("a CA in memory");
        let issue = |subject: &Subject| {
            let options = IssueOptions { life: None, now };
            let issued = ca.issue(subject, &options).expect("a certificate");
            issued.credentials().expect("credentials")
        };
        let node = |id: u64| Subject::Node(NonZeroU64::new(id).expect("ids start at one"));
        let client = |id: u64| Subject::client(&format!("c{id}")).expect("a valid name");
        Pki {
            nodes: (1..=NODES_MAX).map(|id| (id, issue(&node(id)))).collect(),
            clients: (1..=CLIENTS_MAX)
                .map(|id| (id, issue(&client(id))))
                .collect(),
        }
    })
}
