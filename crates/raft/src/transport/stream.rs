//! The order in which a peer is sent its entries: one request after the other.
//! News that something is committed wait a moment for the next entries, which
//! carry them; else those entries would wait for a round trip without content.

use std::pin::Pin;
use std::time::Duration;

use futures::stream::{Peekable, unfold};
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::RPCError;
use openraft::network::{NetAppend, RPCOption};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use openraft::{AsyncRuntime, OptionalSend};

use crate::app::App;
use crate::types::Types;

/// A client that submits one job after the other answers within this time on
/// a local network (measured November 2026: 0.2 to 0.3 ms), and followers lag
/// behind by no more.
const NEWS_WAIT: Duration = Duration::from_millis(1);

type Request<A, RT> = AppendEntriesRequest<Types<A, RT>>;
type Failure<A, RT> = RPCError<Types<A, RT>>;
type Answers<'s, A, RT> = BoxStream<'s, Result<StreamAppendResult<Types<A, RT>>, Failure<A, RT>>>;
/// The answers to a stream of requests, or why there will be none.
pub(super) type AppendStream<'s, A, RT> = Result<Answers<'s, A, RT>, Failure<A, RT>>;

/// Sends `requests` in order and yields the answers; ends with the first that
/// is not a success.
pub(super) fn append<'s, A, RT, N, S>(
    network: &'s mut N,
    requests: S,
    option: RPCOption,
) -> BoxFuture<'s, AppendStream<'s, A, RT>>
where
    A: App,
    RT: AsyncRuntime,
    N: NetAppend<Types<A, RT>> + ?Sized,
    S: Stream<Item = Request<A, RT>> + OptionalSend + Unpin + 'static,
{
    let begin = Some((network, requests.peekable()));
    let answers = unfold(begin, move |state| {
        let option = option.clone();
        async move {
            let (network, mut requests) = state?;
            let request = next::<A, RT, S>(&mut requests).await?;
            let (before, last) = (request.prev_log_id, request.entries.last());
            let last = last.map(|entry| entry.log_id).or(before);
            match network.append_entries(request, option).await {
                Ok(response) => {
                    let whole = match &response {
                        AppendEntriesResponse::PartialSuccess(taken) => *taken == last,
                        AppendEntriesResponse::Success
                        | AppendEntriesResponse::Conflict
                        | AppendEntriesResponse::HigherVote(_) => true,
                    };
                    let answer = response.into_stream_result(before, last);
                    let rest = (whole && answer.is_ok()).then_some((network, requests));
                    Some((Ok(answer), rest))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    let answers: Answers<'s, A, RT> = Box::pin(answers);
    Box::pin(async move { Ok(answers) })
}

/// The next request worth sending.
async fn next<A, RT, S>(requests: &mut Peekable<S>) -> Option<Request<A, RT>>
where
    A: App,
    RT: AsyncRuntime,
    S: Stream<Item = Request<A, RT>> + OptionalSend + Unpin,
{
    let request = requests.next().await?;
    if !request.entries.is_empty() {
        return Some(request);
    }
    // Polled again later, the stream goes on where it was.
    let following = RT::timeout(NEWS_WAIT, Pin::new(&mut *requests).peek()).await;
    let says_all = following.ok().flatten().is_some_and(|following| {
        !following.entries.is_empty()
            && following.vote == request.vote
            && following.prev_log_id == request.prev_log_id
            && following.leader_commit >= request.leader_commit
    });
    if says_all { requests.next().await } else { Some(request) }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, BoxStream};
    use openraft::impls::{Entry as RaftEntry, EntryPayload};
    use openraft_rt_sim::SimRuntime;

    use super::*;
    use crate::suite_test::Nothing;
    use crate::types::{LogId, Vote};

    type Config = Types<Nothing, SimRuntime>;
    type Sent = (Option<u64>, usize, Option<u64>);

    fn position(index: u64) -> LogId {
        LogId::new(openraft::vote::RaftLeaderId::to_committed(&leader()), index)
    }

    fn leader() -> crate::types::LeaderId {
        crate::types::LeaderId { term: 1, voted_for: 1 }
    }

    /// The entries from `before + 1` to `last`, with word of `committed`.
    fn request(before: u64, last: u64, committed: u64) -> Request<Nothing, SimRuntime> {
        let entry = |index| RaftEntry { log_id: position(index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(position(before)),
            entries: (before + 1..=last).map(entry).collect(),
            leader_commit: Some(position(committed)),
        }
    }

    struct Peer {
        sent: Vec<Sent>,
        response: fn(u64) -> AppendEntriesResponse<Config>,
    }

    impl NetAppend<Config> for Peer {
        async fn append_entries(
            &mut self,
            rpc: AppendEntriesRequest<Config>,
            _: RPCOption,
        ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
            let index = |position: Option<LogId>| position.map(|position| position.index);
            let entry = (index(rpc.prev_log_id), rpc.entries.len(), index(rpc.leader_commit));
            self.sent.push(entry);
            Ok((self.response)(rpc.entries.last().map_or(0, |entry| entry.log_id.index)))
        }
    }

    fn answers_of(
        peer: &mut Peer,
        requests: BoxStream<'static, Request<Nothing, SimRuntime>>,
    ) -> Vec<Option<Option<u64>>> {
        let option = RPCOption::new(Duration::from_secs(1));
        SimRuntime::with_seed(1).block_on(async {
            let answers = append::<Nothing, SimRuntime, _, _>(peer, requests, option);
            let answers: Vec<_> = answers.await.unwrap().collect().await;
            let index = |position: Option<LogId>| position.map(|position| position.index);
            answers.into_iter().map(|answer| answer.unwrap().ok().map(index)).collect()
        })
    }

    #[test]
    fn news_travel_with_the_entries_that_follow_at_once_and_alone_otherwise() {
        let success = |_| AppendEntriesResponse::Success;
        let mut peer = Peer { sent: Vec::new(), response: success };
        let at_once = stream::iter([request(1, 2, 1), request(2, 2, 2), request(2, 3, 2)]);
        let later = stream::once(async {
            SimRuntime::sleep(NEWS_WAIT * 3).await;
            request(3, 4, 3)
        });
        let all = at_once.chain(stream::iter([request(3, 3, 3)])).chain(later);
        let answers = answers_of(&mut peer, all.boxed());
        let alone = (Some(3), 0, Some(3));
        let sent = [(Some(1), 1, Some(1)), (Some(2), 1, Some(2)), alone, (Some(3), 1, Some(3))];
        assert_eq!(peer.sent, sent);
        assert_eq!(answers, [2, 3, 3, 4].map(|index| Some(Some(index))));
    }

    #[test]
    fn news_of_another_log_position_are_sent_on_their_own() {
        let success = |_| AppendEntriesResponse::Success;
        let mut peer = Peer { sent: Vec::new(), response: success };
        let requests = stream::iter([request(5, 5, 5), request(4, 6, 5)]);
        answers_of(&mut peer, requests.boxed());
        assert_eq!(peer.sent, [(Some(5), 0, Some(5)), (Some(4), 2, Some(5))]);
    }

    #[test]
    fn nothing_follows_what_was_not_taken_whole() {
        for response in [
            (|_| AppendEntriesResponse::Conflict) as fn(u64) -> AppendEntriesResponse<Config>,
            |last| AppendEntriesResponse::PartialSuccess(Some(position(last - 1))),
            |_| AppendEntriesResponse::HigherVote(Vote::new(7, 2)),
        ] {
            let mut peer = Peer { sent: Vec::new(), response };
            let requests = stream::iter([request(1, 3, 1), request(3, 4, 1)]);
            let answers = answers_of(&mut peer, requests.boxed());
            assert_eq!(peer.sent, [(Some(1), 2, Some(1))]);
            assert_eq!(answers.len(), 1);
        }
        let mut peer = Peer {
            sent: Vec::new(),
            response: |last| AppendEntriesResponse::PartialSuccess(Some(position(last))),
        };
        let requests = stream::iter([request(1, 3, 1), request(3, 4, 1)]);
        answers_of(&mut peer, requests.boxed());
        assert_eq!(peer.sent.len(), 2, "taken whole, in other words");
    }
}
