//! The transport alone, carrying a protocol that has nothing to do with Raft: a client asks a
//! node to repeat a line, and both know who the other is.
//!
//! `cargo run --example echo -p quorate-quic-transport`

use std::{net::SocketAddr, time::Duration};

use futures_lite::future::block_on;
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_quic_transport::{
    Config, Inbound, Inbox, Message, Refusal, Transport, runtime::IoThread,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Say(String);

impl Message for Say {
    const KIND: u16 = 1;
}

#[derive(Serialize, Deserialize)]
struct Echo {
    text: String,
    said_by: String,
}

impl Message for Echo {
    const KIND: u16 = 2;
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A real program loads these from disk: `Credentials::load(dir)`.
    let ca = Ca::generate(&ClusterName::new("echo")?, &CaOptions::default())?;
    let server = ca
        .issue(&Subject::node(1)?, &IssueOptions::default())?
        .credentials()?;
    let client = ca
        .issue(&Subject::client("alice")?, &IssueOptions::default())?
        .credentials()?;

    let io = IoThread::spawn("echo")?;
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let (server, asked) = Transport::bind(Config::new("echo", here), server, io.runtime())?;
    let (client, mut events) = Transport::bind(Config::dial_only("echo"), client, io.runtime())?;
    let serving = std::thread::spawn(move || block_on(serve(asked)));

    client.set_peer(server.identity().clone(), vec![server.local_addr()])?;
    block_on(async {
        while let Some(inbound) = events.recv().await {
            if let Inbound::Up(up) = inbound {
                println!("connected to {} at {}", up.identity, up.addr);
                break;
            }
        }
        let peer = client.peer(server.identity()).expect("it was just set");
        for line in ["hello", "who am I?"] {
            let answer = peer.call::<Say, Echo>(Say(line.into()), Duration::from_secs(2));
            match answer.await {
                Ok(Echo { text, said_by }) => println!("{said_by} said {text:?}"),
                Err(err) => println!("no echo: {err}"),
            }
        }
        client.shutdown(Duration::from_secs(1)).await;
        server.shutdown(Duration::from_secs(1)).await;
    });
    serving.join().expect("serving does not panic");
    Ok(())
}

async fn serve(mut inbox: Inbox) {
    while let Some(inbound) = inbox.recv().await {
        let Inbound::Call(call) = inbound else {
            continue;
        };
        match call.decode::<Say>() {
            Ok(Say(text)) => {
                let said_by = call.from.to_string();
                call.reply.send(&Echo { text, said_by });
            }
            Err(_) => call.reply.refuse(Refusal::UnknownKind),
        }
    }
}
