//! Carries what the core decides: messages to the transport, writes to the disk, entries to the state
//! machine. No decision is made here.

mod seams;

pub use seams::{
    Batch, Clock, Command, LogStore, StateMachine, StateMachineError, StoreError, Transport,
    Undelivered,
};
