//! A promise to call back exactly once.

use std::future::Future;

/// Calls its function with the outcome, or with a fallback error when it is dropped unanswered, so
/// that nobody waits for ever.
pub(super) struct Done<T, E> {
    call: Option<Call<T, E>>,
}

struct Call<T, E> {
    fallback: E,
    function: Box<dyn FnOnce(Result<T, E>) + Send>,
}

impl<T, E> Done<T, E> {
    pub(super) fn new(fallback: E, function: impl FnOnce(Result<T, E>) + Send + 'static) -> Self {
        Self {
            call: Some(Call {
                fallback,
                function: Box::new(function),
            }),
        }
    }

    /// The same promise, with another error for when it is dropped.
    pub(super) fn or(mut self, fallback: E) -> Self {
        if let Some(call) = &mut self.call {
            call.fallback = fallback;
        }
        self
    }

    pub(super) fn call(mut self, outcome: Result<T, E>) {
        let call = self.call.take().expect("present until called or dropped");
        (call.function)(outcome);
    }
}

impl<T: Send + 'static, E: Clone + Send + 'static> Done<T, E> {
    /// A promise, and the future that it completes.
    pub(super) fn channel(fallback: E) -> (Self, impl Future<Output = Result<T, E>> + Send) {
        let (sender, receiver) = async_channel::bounded(1);
        let done = Self::new(fallback.clone(), move |outcome| {
            // Whoever waited may be gone.
            let _ = sender.try_send(outcome);
        });
        (done, async move {
            receiver.recv().await.unwrap_or(Err(fallback))
        })
    }
}

impl<T, E> Drop for Done<T, E> {
    fn drop(&mut self) {
        if let Some(Call { fallback, function }) = self.call.take() {
            function(Err(fallback));
        }
    }
}
