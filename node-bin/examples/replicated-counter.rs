//! A service as it runs on three machines: each process embeds one node. Who it is says a certificate that `quorate
//! certs` made, where it and the others are say arguments, and Ctrl-C or SIGTERM stops it in order.
//!
//! ```text
//! quorate certs init --cluster c1
//! quorate certs issue --node 1 --out n1
//! quorate certs issue --node 2 --out n2
//! quorate certs issue --node 3 --out n3
//! cargo run --release -p quorate --example replicated-counter -- n1 127.0.0.1:7001 2=127.0.0.1:7002 3=127.0.0.1:7003
//! cargo run --release -p quorate --example replicated-counter -- n2 127.0.0.1:7002 1=127.0.0.1:7001 3=127.0.0.1:7003
//! cargo run --release -p quorate --example replicated-counter -- n3 127.0.0.1:7003 1=127.0.0.1:7001 2=127.0.0.1:7002
//! ```
//!
//! A number that is typed at any of them is added, once, and an empty line reads the sum.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use async_channel::Receiver;
use bytes::Bytes;
use futures_lite::future::{block_on, or, pending};
use quorate::saved::State;
use quorate::{Command, Credentials, Node, NodeConfig, NodeId};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const USAGE: &str = "usage: replicated-counter CERTIFICATE-FOLDER LISTEN [NODE=ADDRESS]..";

/// How many lines wait, and how many signals.
const INPUTS_MAX: usize = 16;

/// How long an answer may take: an election and much more.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a stop may wait for peers to be told.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Saved in a file of the data folder, and what is not yet there is in the log.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Sum(i64);

impl State for Sum {
    const COMPARED: bool = true;

    fn apply(&mut self, command: &Command) -> Bytes {
        let text = std::str::from_utf8(&command.data).unwrap_or_default();
        match text.parse::<i64>() {
            Ok(step) => {
                self.0 = self.0.wrapping_add(step);
                self.0.to_string().into()
            }
            Err(_) => Bytes::from_static(b"not a number"),
        }
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.0.to_string().into()
    }
}

/// The folder of the certificate, and what the node is started with. Its data goes beside the certificate.
fn arguments() -> Result<(PathBuf, NodeConfig), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let listen: SocketAddr = arguments.next().ok_or(USAGE)?.parse()?;
    let mut config = NodeConfig::new(listen, folder.join("data"));
    for argument in arguments {
        let (node, address) = argument.split_once('=').ok_or(USAGE)?;
        let node = NodeId::new(node.parse()?).ok_or("nodes are counted from one")?;
        config.peers.insert(node, vec![address.parse()?]);
    }
    Ok((folder, config))
}

/// What is typed. Its end is none for a service, whose input may be closed from the beginning.
fn lines() -> Receiver<String> {
    let (sender, lines) = async_channel::bounded(INPUTS_MAX);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send_blocking(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Requests to stop.
fn signals() -> io::Result<Receiver<i32>> {
    let (sender, requests) = async_channel::bounded(INPUTS_MAX);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            // One that waits is as good as many.
            let _ = sender.try_send(signal);
        }
    });
    Ok(requests)
}

async fn answer(node: &Node, line: &str) -> String {
    let answer = match line.trim() {
        "" => node
            .query_within(Bytes::new(), PATIENCE)
            .await
            .map_err(|error| error.to_string()),
        step => {
            let step = Bytes::copy_from_slice(step.as_bytes());
            let submitted = node.submit(step, PATIENCE);
            submitted.await.map_err(|error| error.to_string())
        }
    };
    // An error says whether anything happened.
    match answer {
        Ok(value) => String::from_utf8_lossy(&value).into_owned(),
        Err(error) => error,
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What to do about it is in the text.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (folder, config) = arguments()?;
    // Before the node runs: a signal that comes early is not lost.
    let stop = signals()?;
    let node =
        Node::builder(config, Credentials::load(&folder)?).start_saved_once(Sum::default())?;
    println!(
        "node {} listens on {}",
        node.id().value(),
        node.local_addr()
    );
    let lines = lines();
    block_on(async {
        let serve = async {
            while let Ok(line) = lines.recv().await {
                println!("{}", answer(&node, &line).await);
            }
            pending().await
        };
        let told = async {
            let _ = stop.recv().await;
            Ok(())
        };
        // A node that stops by itself, as when its disk fails, says why; the service ends with it.
        or(told, or(node.stopped(), serve)).await?;
        // Whoever leads hands over first, so that the others need not wait for an election timeout.
        node.shutdown(FAREWELL_MAX).await?;
        println!("stopped");
        Ok(())
    })
}
