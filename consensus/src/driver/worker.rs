//! Makes the end of a worker known.

use async_channel::Sender;

use super::handle::Input;
use crate::error::Fatal;

/// Tells the driver when the worker that holds it goes away without having said why.
pub(super) struct Alarm {
    worker: &'static str,
    inbox: Option<Sender<Input>>,
}

impl Alarm {
    pub(super) fn new(worker: &'static str, inbox: Sender<Input>) -> Self {
        Self {
            worker,
            inbox: Some(inbox),
        }
    }

    /// The worker ends in good order, or has reported its error.
    pub(super) fn disarm(mut self) {
        self.inbox = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            let _ = inbox.try_send(Input::Failed(Fatal::WorkerGone {
                worker: self.worker,
            }));
        }
    }
}
