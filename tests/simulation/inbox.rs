//! What tasks of the runtime tell the one loop that owns the world.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use berth_raft::{FatalReason, RaftStatus, ReadError, StartError};

use crate::leader::Outcome;
use crate::scheduler::Node;

/// Something a scheduler's tasks bring.
pub enum SchedulerEvent {
    Started(Result<Node, StartError>),
    Status(RaftStatus),
    Published,
    Fatal(FatalReason),
    /// It may lead in this term, or may not yet.
    Ready {
        term: u64,
        read: Result<u64, ReadError>,
    },
    Committed(Outcome),
    Read {
        client: usize,
        op: u64,
        result: Result<u64, ReadError>,
    },
    /// Its last task is over: it may be started again.
    Stopped,
}

pub enum Signal {
    Scheduler(u64, u32, SchedulerEvent),
}

#[derive(Default)]
struct Inner {
    signals: VecDeque<Signal>,
    waker: Option<Waker>,
}

/// Where tasks leave what they have to tell; first in, first out.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Mutex<Inner>>);

impl Inbox {
    pub fn push(&self, signal: Signal) {
        let mut inner = self.0.lock().unwrap();
        inner.signals.push_back(signal);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    pub fn pop(&self) -> Option<Signal> {
        self.0.lock().unwrap().signals.pop_front()
    }

    pub async fn filled(&self) {
        poll_fn(|context| {
            let mut inner = self.0.lock().unwrap();
            if inner.signals.is_empty() {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}
