//! The calls of the Jobs service.

use berth_proto::v1::jobs_client::JobsClient;
use berth_proto::v1::{
    ChangeJobRequest, EventsRequest, ExplainReply, ExplainRequest, GetJobRequest, HistoryReply,
    HistoryRequest, Job, ListAllocationsReply, ListAllocationsRequest, ListJobsReply,
    ListJobsRequest, LogsRequest, PlanReply, PlanRequest, PurgeReply, RollbackJobRequest,
    ScaleJobRequest, SubmitManyReply, SubmitManyRequest, SubmitReply, SubmitRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::key::new_key;
use crate::stream::{EventStream, LogStream};

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty = $client:ident . $method:ident, $repeat:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// See [`ClientError`].
                pub async fn $name(&self, request: $request) -> Result<$answer, ClientError> {
                    self.call(Repeat::$repeat, request, |channel, request| async move {
                        $client::new(channel).$method(request).await
                    })
                    .await
                }
            )*
        }
    };
}
pub(crate) use calls;

calls! {
    /// What a submit would do now.
    plan(PlanRequest) -> PlanReply = JobsClient.plan, Read;
    get_job(GetJobRequest) -> Job = JobsClient.get, Read;
    list_jobs(ListJobsRequest) -> ListJobsReply = JobsClient.list, Read;
    list_allocations(ListAllocationsRequest) -> ListAllocationsReply = JobsClient.list_allocations, Read;
    explain(ExplainRequest) -> ExplainReply = JobsClient.explain, Read;
    history(HistoryRequest) -> HistoryReply = JobsClient.history, Read;
    /// Stopping a stopped job changes nothing, so it is repeated freely.
    stop_job(ChangeJobRequest) -> Job = JobsClient.stop, Harmless;
    /// A second restart would restart again.
    restart_job(ChangeJobRequest) -> Job = JobsClient.restart, Harmful;
    hold_job(ChangeJobRequest) -> Job = JobsClient.hold, Harmless;
    release_job(ChangeJobRequest) -> Job = JobsClient.release, Harmless;
    /// A second purge would find no job.
    purge_job(ChangeJobRequest) -> PurgeReply = JobsClient.purge, Harmful;
    /// Each one makes a version.
    scale_job(ScaleJobRequest) -> Job = JobsClient.scale, Harmful;
    /// Each one makes a version.
    rollback_job(RollbackJobRequest) -> Job = JobsClient.rollback, Harmful;
}

impl Client {
    /// Submits a job. A request without a key is given one, so that it can be
    /// repeated without running the job twice.
    ///
    /// # Errors
    /// See [`ClientError`]; an unknown outcome names the key.
    pub async fn submit(&self, request: SubmitRequest) -> Result<SubmitReply, ClientError> {
        let mut request = request;
        if request.key.is_empty() {
            request.key = new_key();
        }
        let key = request.key.clone();
        let result = self
            .call(Repeat::Harmless, request, |channel, request| async move {
                JobsClient::new(channel).submit(request).await
            })
            .await;
        result.map_err(|error| match error {
            ClientError::OutcomeUnknown { key: _, tried } => {
                ClientError::OutcomeUnknown { key: Some(key), tried }
            }
            ClientError::Unreachable { .. }
            | ClientError::NoLeader { .. }
            | ClientError::Refused(_) => error,
        })
    }

    /// Submits many jobs, each with its own answer. Requests without a key are
    /// given one.
    ///
    /// # Errors
    /// See [`ClientError`]. After an unknown outcome, only requests whose keys the
    /// caller chose can be repeated safely.
    pub async fn submit_many(
        &self,
        requests: Vec<SubmitRequest>,
    ) -> Result<SubmitManyReply, ClientError> {
        let mut submits = requests;
        for submit in submits.iter_mut().filter(|submit| submit.key.is_empty()) {
            submit.key = new_key();
        }
        let request = SubmitManyRequest { submits };
        self.call(Repeat::Harmless, request, |channel, request| async move {
            JobsClient::new(channel).submit_many(request).await
        })
        .await
    }

    /// What has happened and, if asked, what goes on happening.
    #[must_use]
    pub fn events(&self, request: EventsRequest) -> EventStream {
        EventStream::new(self.clone(), request)
    }

    /// The output of an instance.
    #[must_use]
    pub fn logs(&self, request: LogsRequest) -> LogStream {
        LogStream::new(self.clone(), request)
    }
}
