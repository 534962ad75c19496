//! Answers on their way out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_routing::Outcome;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::errors;
use crate::service::Charge;
use crate::sse::Events;

/// A stream that says nothing for so long says so, with a line that clients pass over, so that
/// nobody between takes its connection for a dead one.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The answer breaks off: its connection is closed before what was promised has come.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the replica's answer broke off: {0}")]
pub(crate) struct BrokenOff(&'static str);

/// The body of an answer.
pub(crate) enum AnswerBody {
    /// The gateway's own.
    Own(Bytes),
    /// A replica's.
    Passed(Box<Passing>),
}

/// A replica's answer, the beginning of which has come.
pub(crate) struct Passing {
    incoming: Incoming,
    first: Option<Frame<Bytes>>,
    charge: Charge,
    /// What ends well is told to the policy as this.
    ends_as: Outcome,
    events: Option<Events>,
    /// Whether a stream that ends without saying that it is done has broken off.
    says_done: bool,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    silence: Pin<Box<Sleep>>,
    /// Of a stream of events.
    heartbeat: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

impl AnswerBody {
    pub fn own(bytes: Bytes) -> AnswerBody {
        AnswerBody::Own(bytes)
    }
}

/// How an answer is to be passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Byte for byte.
    Plain,
    /// As server-sent events, the last of which says so or not.
    Events { says_done: bool },
}

impl Passing {
    pub fn new(
        incoming: Incoming,
        first: Option<Frame<Bytes>>,
        charge: Charge,
        ends_as: Outcome,
        kind: Kind,
    ) -> Passing {
        let (events, says_done) = match kind {
            Kind::Plain => (None, false),
            Kind::Events { says_done } => (Some(Events::default()), says_done),
        };
        let heartbeat = events.is_some().then(|| Box::pin(tokio::time::sleep(HEARTBEAT)));
        let gone = Box::pin(charge.gone.clone().cancelled_owned());
        let silence = Box::pin(tokio::time::sleep(charge.silence_max));
        Passing {
            incoming,
            first,
            charge,
            ends_as,
            events,
            says_done,
            gone,
            silence,
            heartbeat,
            has_ended: false,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            if self.has_ended {
                return Poll::Ready(None);
            }
            let next = match self.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None => Pin::new(&mut self.incoming).poll_frame(context),
            };
            match next {
                Poll::Ready(Some(Ok(frame))) => {
                    self.heard();
                    // Of what has a length nobody asks whether there is more.
                    if self.events.is_none() && self.incoming.is_end_stream() {
                        self.has_ended = true;
                        self.charge.finish(self.ends_as);
                    }
                    if let Some(frame) = self.pass(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.break_off("its connection broke"),
                Poll::Ready(None) => {
                    let is_cut = self.says_done
                        && self.events.as_ref().is_some_and(|events| !events.is_done());
                    if is_cut {
                        return self.break_off("it ended without [DONE]");
                    }
                    self.has_ended = true;
                    self.charge.finish(self.ends_as);
                }
                Poll::Pending => return self.wait(context),
            }
        }
    }

    /// Nothing has come yet.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.gone.as_mut().poll(context).is_ready() {
            return self.break_off("it does not answer when it is looked at");
        }
        if self.silence.as_mut().poll(context).is_ready() {
            return self.break_off("it went on too late");
        }
        let can_beat = self.events.as_ref().is_some_and(Events::is_between_events);
        if let Some(heartbeat) = self.heartbeat.as_mut().filter(|_| can_beat)
            && heartbeat.as_mut().poll(context).is_ready()
        {
            heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": waiting\n\n")))));
        }
        Poll::Pending
    }

    fn heard(&mut self) {
        let now = Instant::now();
        self.charge.heard();
        self.silence.as_mut().reset(now + self.charge.silence_max);
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.as_mut().reset(now + HEARTBEAT);
        }
    }

    /// `None` where nothing of it is to be passed on yet.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(events) = &mut self.events else { return Some(frame) };
        match frame.into_data() {
            Ok(data) => Some(events.push(data)).filter(|data| !data.is_empty()).map(Frame::data),
            // Trailers say nothing to who reads events.
            Err(_) => None,
        }
    }

    /// Says it in the stream, where there is one; else the connection is closed early.
    fn break_off(&mut self, why: &'static str) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.has_ended = true;
        self.charge.finish(Outcome::Failed);
        metrics::counter!("berth_gateway_answers_broken_total").increment(1);
        match &self.events {
            Some(events) if events.is_between_events() => {
                let message = BrokenOff(why).to_string();
                let event = errors::event("answer_broke_off", &message);
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
            Some(_) | None => Poll::Ready(Some(Err(BrokenOff(why)))),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            AnswerBody::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Passed(passing) => passing.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Own(bytes) => bytes.is_empty(),
            AnswerBody::Passed(passing) => passing.has_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A stream may end with an event of the gateway's own.
            AnswerBody::Passed(passing) if passing.events.is_some() => SizeHint::default(),
            AnswerBody::Passed(passing) => {
                let taken = passing.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
                let rest = passing.incoming.size_hint().exact();
                rest.map_or(SizeHint::default(), |rest| SizeHint::with_exact(rest + taken as u64))
            }
        }
    }
}
