//! A client whose keeper is late.

use std::pin::Pin;

use futures_lite::future::poll_once;

use super::super::keeper::Job;
use super::*;

/// Spawns nothing until it is told to: the keeper of a client takes no job before that.
#[derive(Debug)]
struct Late {
    runtime: Arc<dyn quinn::Runtime>,
    /// Closed once it is told to.
    tasks: (Sender<Task>, Receiver<Task>),
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Late {
    fn begin(&self) {
        self.tasks.0.close();
        while let Ok(task) = self.tasks.1.try_recv() {
            self.runtime.spawn(task);
        }
    }
}

impl quinn::Runtime for Late {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        self.runtime.new_timer(at)
    }

    fn spawn(&self, task: Task) {
        if let Err(error) = self.tasks.0.try_send(task) {
            self.runtime.spawn(error.into_inner());
        }
    }

    fn wrap_udp_socket(
        &self,
        socket: UdpSocket,
    ) -> std::io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.runtime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

/// An operation that is dropped just when it was to have the nodes asked who leads leaves that to another.
#[test]
fn a_dropped_operation_leaves_nobody_waiting() {
    let (stage, nodes) = Stage::three();
    let runtime = Arc::new(Late {
        runtime: stage.io.runtime(),
        tasks: async_channel::unbounded(),
    });
    let client = stage.client_on(&nodes, PATIENCE / 4, Arc::clone(&runtime) as _);
    let (wake, _woken) = async_channel::bounded(1);
    let job = || Job::Wake(Instant::now(), wake.clone());
    while client.shared.jobs.try_send(job()).is_ok() {}
    let mut first = Box::pin(client.get("k"));
    let mut second = Box::pin(client.get("k"));
    assert!(patiently(poll_once(&mut first)).is_none());
    assert!(patiently(poll_once(&mut second)).is_none());
    drop(first);
    runtime.begin();
    assert_eq!(patiently(second).unwrap(), None);
}

/// A time that no clock can show is not one.
#[test]
fn an_operation_may_take_for_ever() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, Duration::MAX);
    assert_eq!(patiently(client.put("k", "v")).unwrap(), 1);
}
