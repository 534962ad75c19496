//! A command beside a running worker: what goes to it and what comes of it.

use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::jobs_client::JobsClient;
use berth_proto::v1::{
    ExecInput, ExecInputEnd, ExecOutput, ExecStart, FilesReply, FilesRequest, TerminalSize,
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::stream::{broken_off, without_limit};

/// Pieces of input on their way; the command's pace is the pace.
const PIECES_MAX: usize = 8;

/// The way to a command. Dropped, it says that there is nothing more to read.
#[derive(Debug)]
pub struct ExecInputs(mpsc::Sender<ExecInput>);

/// What comes of a command. Dropped, it says that nobody is there any more.
#[derive(Debug)]
pub struct ExecOutputs(Streaming<ExecOutput>);

/// The files of a task's directory, on their way.
#[derive(Debug)]
pub struct FileStream(Streaming<FilesReply>);

impl Client {
    /// Runs a command beside a running worker. It is begun once: what breaks is not tried again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn exec(&self, start: ExecStart) -> Result<(ExecInputs, ExecOutputs), ClientError> {
        self.call(Repeat::Harmful, start, |channel, request| async move {
            let (inputs, outgoing) = mpsc::channel(PIECES_MAX);
            let request = without_limit(request).map(|start| {
                // The channel is new and has room.
                let _ = inputs.try_send(ExecInput { input: Some(Input::Start(start)) });
                ReceiverStream::new(outgoing)
            });
            let answer = JobsClient::new(channel).exec(request).await?;
            Ok(answer.map(|outputs| (ExecInputs(inputs), ExecOutputs(outputs))))
        })
        .await
    }

    /// A directory or file below an instance's own directory.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn files(&self, request: FilesRequest) -> Result<FileStream, ClientError> {
        self.call(Repeat::Read, request, |channel, request| async move {
            let answer = JobsClient::new(channel).files(without_limit(request)).await?;
            Ok(answer.map(FileStream))
        })
        .await
    }
}

impl ExecInputs {
    /// Waits for room; `false` if the command has ended.
    pub async fn data(&self, data: Bytes) -> bool {
        self.send(Input::Data(data)).await
    }

    /// The caller's window has this size now.
    pub async fn resized(&self, size: TerminalSize) -> bool {
        self.send(Input::Resized(size)).await
    }

    /// There is nothing more to read; the window may still change.
    pub async fn end(&self) -> bool {
        self.send(Input::End(ExecInputEnd {})).await
    }

    async fn send(&self, input: Input) -> bool {
        self.0.send(ExecInput { input: Some(input) }).await.is_ok()
    }
}

impl ExecOutputs {
    /// What comes next; `None` when the scheduler has no more to say, which it says only after
    /// an end.
    ///
    /// # Errors
    /// See [`ClientError`]; how the command ended is then not known.
    pub async fn next(&mut self) -> Result<Option<Output>, ClientError> {
        loop {
            match self.0.message().await {
                // Of a later release.
                Ok(Some(ExecOutput { output: None })) => {}
                Ok(next) => return Ok(next.and_then(|next| next.output)),
                Err(status) => return Err(broken_off(&status)),
            }
        }
    }
}

impl FileStream {
    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<FilesReply>, ClientError> {
        self.0.message().await.map_err(|status| broken_off(&status))
    }
}
