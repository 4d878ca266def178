//! What both kinds of socket share: trying to receive before waiting for anything.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;

use quinn::udp::{RecvMeta, UdpSocketState};
use tracing::debug;

/// Receive errors in a row after which the socket counts as broken. ICMP answers of single peers
/// end up here and say nothing about the socket, so a few are ignored.
const RECEIVE_ERRORS_MAX: usize = 64;

/// Receives what is there; `None` when nothing is.
pub(super) fn try_recv(
    state: &UdpSocketState,
    socket: &UdpSocket,
    buffers: &mut [IoSliceMut<'_>],
    meta: &mut [RecvMeta],
) -> Option<io::Result<usize>> {
    let mut errors = 0;
    loop {
        match state.recv(socket.into(), buffers, meta) {
            Ok(count) => return Some(Ok(count)),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return None,
            Err(err) => {
                errors += 1;
                let about_a_peer = matches!(
                    err.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                );
                if !about_a_peer {
                    debug!(%err, "receiving failed");
                }
                if errors >= RECEIVE_ERRORS_MAX {
                    return Some(Err(err));
                }
            }
        }
    }
}
