//! The simulator's model of an engine, in real time: one task owns it and tells each request its
//! tokens as the steps end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_sim::serve::{Done, Engine, EngineShape, GatewayUs, Work};
use tokio::sync::{mpsc, watch};

/// One more token; after the last the channel is closed.
pub type Tokens = mpsc::UnboundedReceiver<()>;

enum Order {
    Submit(Work, mpsc::UnboundedSender<()>),
    Cancel(u64),
}

/// What the worker's metrics show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    pub running: usize,
    pub waiting: usize,
    /// Of its memory for prompts and answers, from 0 to 1,000.
    pub held_milli: u64,
    pub hit_tokens: u64,
    pub prompt_tokens: u64,
    pub written_tokens: u64,
}

/// Takes orders; cheap to clone.
#[derive(Clone)]
pub struct Orders {
    orders: mpsc::UnboundedSender<Order>,
    shown: watch::Receiver<Shown>,
}

/// A request that is being worked on; dropped before its end, it is given up.
pub struct Asked {
    id: u64,
    pub tokens: Tokens,
    orders: mpsc::UnboundedSender<Order>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // The engine is gone only when the process ends.
        let _ = self.orders.send(Order::Cancel(self.id));
    }
}

impl Orders {
    /// Starts the engine.
    pub fn start(shape: EngineShape, block_tokens: u32) -> Orders {
        let (orders, taken) = mpsc::unbounded_channel();
        let (show, shown) = watch::channel(Shown::default());
        drop(tokio::spawn(run(Engine::stepwise(shape, block_tokens), taken, show)));
        Orders { orders, shown }
    }

    pub fn ask(&self, work: Work) -> Asked {
        let (told, tokens) = mpsc::unbounded_channel();
        let id = work.id;
        let _ = self.orders.send(Order::Submit(work, told));
        Asked { id, tokens, orders: self.orders.clone() }
    }

    pub fn shown(&self) -> Shown {
        *self.shown.borrow()
    }
}

async fn run(
    mut engine: Engine,
    mut orders: mpsc::UnboundedReceiver<Order>,
    show: watch::Sender<Shown>,
) {
    let began = Instant::now();
    let moment = || GatewayUs(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    let mut asking: BTreeMap<u64, mpsc::UnboundedSender<()>> = BTreeMap::new();
    let mut written = 0;
    loop {
        let next = engine.next();
        let order = tokio::select! {
            biased;
            () = sleep_until(began, next), if next.is_some() => None,
            order = orders.recv() => match order {
                None => return,
                some => some,
            },
        };
        match order {
            Some(Order::Submit(work, told)) => {
                asking.insert(work.id, told);
                engine.submit(work, moment());
            }
            Some(Order::Cancel(id)) => {
                if asking.remove(&id).is_some() {
                    engine.cancel(id);
                }
            }
            None => {
                // A step that ended late does not make the next one late.
                let at = next.unwrap_or_default();
                for done in engine.advance(at) {
                    written += 1;
                    match done {
                        Done::FirstToken { id } | Done::Token { id } => {
                            asking.get(&id).map(|told| told.send(()));
                        }
                        Done::All { id } => {
                            asking.remove(&id).map(|told| told.send(()));
                        }
                    }
                }
            }
        }
        let (running, waiting) = engine.requests();
        let (hit_tokens, prompt_tokens) = engine.hit();
        show.send_replace(Shown {
            running,
            waiting,
            held_milli: engine.held_milli(),
            hit_tokens,
            prompt_tokens,
            written_tokens: written,
        });
    }
}

async fn sleep_until(began: Instant, at: Option<GatewayUs>) {
    if let Some(at) = at {
        tokio::time::sleep_until((began + Duration::from_micros(at.0)).into()).await;
    }
}
