//! The key-value store that ships with Quorate, inside a program, with its client.
//!
//! ```text
//! cargo run --release -p quorate --example kv
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use quorate::Node;
use quorate::kv::{Client, ClientConfig, ClientError, Swap};
use quorate_certs::Subject;
use quorate_quic_transport::runtime::IoThread;

#[path = "common/mod.rs"]
mod common;

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = common::Cluster::new("kv")?;
    let mut nodes = Vec::new();
    for (config, credentials) in cluster.seats()? {
        nodes.push(Node::builder(config, credentials).start_kv()?);
    }
    // A client has an identity as well. Its I/O has a thread; its futures can be awaited anywhere.
    let io = IoThread::spawn("client")?;
    let credentials = cluster.credentials(&Subject::client("example")?)?;
    let client = Client::connect(
        ClientConfig::new(cluster.endpoints(), credentials),
        Arc::clone(&io.runtime()),
    )?;
    block_on(async {
        let revision = client.put("greeting", "hello").await?;
        println!("put greeting at revision {revision}");
        let swapped = client
            .compare_and_set("greeting", Some("hello".into()), Some("world".into()))
            .await?;
        println!("{swapped:?}");
        if let Swap::NotSwapped { current } = swapped {
            println!("somebody was faster: {current:?}");
        }
        for node in client.nodes() {
            let found = client.reading_at(node).get("greeting").await?;
            let value = found.ok_or("it was written")?;
            println!(
                "node {} has {:?}",
                node.value(),
                String::from_utf8_lossy(&value.data)
            );
        }

        let leader = client.leader().ok_or("somebody has answered")?;
        let at = nodes
            .iter()
            .position(|node| node.id() == leader)
            .ok_or("it is one of ours")?;
        println!(
            "node {} leads; it is dropped, as in a crash",
            leader.value()
        );
        drop(nodes.remove(at));
        let since = Instant::now();
        // The client finds the next leader. A write of unknown outcome it does not repeat by itself.
        while let Err(error) = client.put("greeting", "again").await {
            match error {
                ClientError::OutcomeUnknown { .. } => println!("unknown, and harmless to repeat"),
                error => return Err(error.into()),
            }
        }
        println!("written again after {:?}", since.elapsed());
        client.close().await;
        for node in nodes {
            node.shutdown(Duration::from_secs(1)).await?;
        }
        Ok(())
    })
}
