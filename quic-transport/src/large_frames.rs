//! Large frames: what clients have begun of them takes room that all clients share, and may not keep it for long.

use std::pin::Pin;

use futures_lite::future::or;

use crate::{
    budget::Share,
    close::{CloseCode, Refused},
    connection::Lanes,
    planted,
    reader::ReadEnd,
    runtime::sleep_until,
};

/// A longer frame needs room among those of all clients.
pub(crate) const SMALL_FRAME_BYTES_MAX: usize = 64 << 10;

/// What a large frame takes of the memory for such, and until when it may.
pub(crate) struct Room {
    _share: Share,
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Lanes {
    /// What `work` comes to, unless a frame that has `room` takes too long, to arrive or to be taken: a client can
    /// stop both.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ReadEnd>>,
        room: Option<&mut Room>,
    ) -> Result<T, ReadEnd> {
        let Some(until) = room.and_then(|room| room.until.as_mut()) else {
            return work.await;
        };
        or(work, async {
            until.as_mut().await;
            let limit = self.shared.config.timings.large_frame_timeout;
            let reason =
                format!("a frame above {SMALL_FRAME_BYTES_MAX} bytes took longer than {limit:?}");
            Err(ReadEnd::Fault(Refused::new(CloseCode::TOO_SLOW, reason)))
        })
        .await
    }

    /// Waiting here stops reading the stream, and QUIC then stops the peer.
    pub(crate) async fn room_for_frame(&self, bytes: usize) -> Result<Room, ReadEnd> {
        let room = self.link.budgets.frames.room_for(bytes);
        // Whoever has the room may hold it for long; the end of the connection must be seen.
        let share = or(async { Ok(room.await) }, async {
            self.established.connection.closed().await;
            Err(ReadEnd::Connection)
        })
        .await?;
        let runtime = &*self.shared.runtime;
        // Nodes share their room with nobody, and what they send over a bad link takes as long as it does.
        let limited = !self.link.is_node() && !planted::is("large-frame-may-stall");
        let timeout = self.shared.config.timings.large_frame_timeout;
        let until = limited.then(|| Box::pin(sleep_until(runtime, runtime.now() + timeout)) as _);
        Ok(Room {
            _share: share,
            until,
        })
    }
}
