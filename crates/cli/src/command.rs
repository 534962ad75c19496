//! The tree of client commands.

use clap::Subcommand;

use crate::commands::{
    cert, cluster_events, completions, config, exec, files, gpu_change, gpu_list, gpu_show,
    job_change, job_events, job_explain, job_history, job_list, job_rollback, job_scale, job_show,
    job_wait, logs, namespace, node_change, node_defrag, node_drain, node_list, node_show,
    operator_debug, operator_finalize, operator_members, operator_policy, operator_recover_admin,
    operator_resume, operator_status, operator_transfer, orphan, plan, reservation, run, service,
    sim, snapshot, submit, token, version,
};
use crate::error::{CliError, Exit};
use crate::session::Session;

/// A client command.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Submit a job file
    Run(run::RunArgs),
    /// Submit a command line as a batch job
    Submit(submit::SubmitArgs),
    /// Show what submitting a job file would do now
    Plan(plan::PlanArgs),
    /// List jobs
    Ps(job_list::ListArgs),
    /// Jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// Stop a job
    Stop(job_change::ChangeArgs),
    /// Print the output of a job
    Logs(logs::LogsArgs),
    /// Run a command beside a running worker
    Exec(exec::ExecArgs),
    /// List or print the files of a task's directory
    Files(files::FilesArgs),
    /// Nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// GPUs
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// Namespaces, and what they may use
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// What a namespace may use, and what it uses
    #[command(subcommand)]
    Quota(namespace::QuotaCommand),
    /// Nodes that are reserved, for whom and when
    #[command(subcommand)]
    Reservation(reservation::ReservationCommand),
    /// Services, as their callers reach them
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Workers that a restored cluster does not know
    #[command(subcommand)]
    Orphan(orphan::OrphanCommand),
    /// The cluster itself
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Tokens: who may do what, and who may join
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Certificates of machines
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Print events of the cluster
    Events(cluster_events::EventsArgs),
    /// Run the cluster's own code over lists of work, without a cluster
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Print the version
    Version,
}

/// A command about jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs
    List(job_list::ListArgs),
    /// Show a job and its allocations
    Show(job_show::ShowArgs),
    /// Print events of a job
    Events(job_events::JobEventsArgs),
    /// List the versions of a job
    History(job_history::HistoryArgs),
    /// Tell why a job waits, or why it is where it is
    Explain(job_explain::ExplainArgs),
    /// Stop a job
    Stop(job_change::ChangeArgs),
    /// Restart every instance of a job
    Restart(job_change::ChangeArgs),
    /// Change how many instances a job has
    Scale(job_scale::ScaleArgs),
    /// Go back to an earlier version of a job
    Rollback(job_rollback::RollbackArgs),
    /// Start no further instances of a job
    Hold(job_change::ChangeArgs),
    /// Undo a hold
    Release(job_change::ChangeArgs),
    /// Forget a job that has ended
    Purge(job_change::ChangeArgs),
    /// Wait until a job runs, succeeds or ends
    Wait(job_wait::WaitArgs),
}

/// A command about nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes
    List(node_list::NodeListArgs),
    /// Show a node and its GPUs
    Show(node_show::NodeShowArgs),
    /// Place nothing new on a node
    Cordon(node_change::NodeArgs),
    /// Place work on a node again
    Uncordon(node_change::NodeArgs),
    /// Move everything off a node
    Drain(node_drain::DrainArgs),
    /// Plan moves that leave less of the GPUs of no use
    Defrag(node_defrag::DefragArgs),
}

/// A command about GPUs.
#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// List GPUs
    List(gpu_list::GpuListArgs),
    /// Show one GPU, what is wrong with it, and what holds it
    Show(gpu_show::GpuShowArgs),
    /// Put nothing new on a GPU
    Cordon(gpu_change::GpuArgs),
    /// Let work on a GPU again
    Uncordon(gpu_change::GpuArgs),
}

/// A command about the cluster itself.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show leader, members and counts
    Status(operator_status::StatusArgs),
    /// Give a scheduler that joined as a learner a vote
    Promote(operator_members::MemberArgs),
    /// Take a scheduler out for good, a dead one for example
    Remove(operator_members::MemberArgs),
    /// Hand the leadership to another scheduler
    Transfer(operator_transfer::TransferArgs),
    /// Backups, and restoring from them
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// What jobs get that say no placement policy
    #[command(subcommand)]
    Policy(operator_policy::PolicyCommand),
    /// What helps somebody else to see what is wrong
    #[command(subcommand)]
    Debug(operator_debug::DebugCommand),
    /// Make a new administrator's token, on a scheduler's own machine
    RecoverAdmin(operator_recover_admin::RecoverArgs),
    /// End a rolling upgrade: let the cluster do what only the new version knows
    Finalize,
    /// Place work again although nodes of a restored cluster are missing
    Resume,
}

/// A command about the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Tell whether the configuration is valid
    Check,
    /// Print each setting and where its value came from
    Show,
}

impl ClientCommand {
    pub(crate) async fn run(
        self,
        session: &mut Session<'_, '_>,
        root: clap::Command,
    ) -> Result<Exit, CliError> {
        match self {
            ClientCommand::Run(args) => run::run(args, session).await,
            ClientCommand::Submit(args) => submit::run(args, session).await,
            ClientCommand::Plan(args) => plan::run(args, session).await,
            ClientCommand::Ps(args) => job_list::run(args, session).await,
            ClientCommand::Job(command) => command.run(session).await,
            ClientCommand::Stop(args) => job_change::stop(args, session).await,
            ClientCommand::Logs(args) => logs::run(args, session).await,
            ClientCommand::Exec(args) => exec::run(args, session).await,
            ClientCommand::Files(args) => files::run(args, session).await,
            ClientCommand::Node(command) => command.run(session).await,
            ClientCommand::Gpu(command) => command.run(session).await,
            ClientCommand::Namespace(command) => command.run(session).await,
            ClientCommand::Quota(command) => command.run(session).await,
            ClientCommand::Reservation(command) => command.run(session).await,
            ClientCommand::Service(command) => command.run(session).await,
            ClientCommand::Orphan(command) => command.run(session).await,
            ClientCommand::Operator(command) => command.run(session).await,
            ClientCommand::Token(command) => command.run(session).await,
            ClientCommand::Cert(command) => command.run(session).await,
            ClientCommand::Events(args) => cluster_events::run(args, session).await,
            ClientCommand::Sim(command) => command.run(session),
            ClientCommand::Config(ConfigCommand::Check) => config::check(session),
            ClientCommand::Config(ConfigCommand::Show) => config::show(session),
            ClientCommand::Completions(args) => completions::run(args, session, root),
            ClientCommand::Version => version::run(session),
        }
    }
}

impl JobCommand {
    async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            JobCommand::List(args) => job_list::run(args, session).await,
            JobCommand::Show(args) => job_show::run(args, session).await,
            JobCommand::Events(args) => job_events::run(args, session).await,
            JobCommand::History(args) => job_history::run(args, session).await,
            JobCommand::Explain(args) => job_explain::run(args, session).await,
            JobCommand::Stop(args) => job_change::stop(args, session).await,
            JobCommand::Restart(args) => job_change::restart(args, session).await,
            JobCommand::Scale(args) => job_scale::run(args, session).await,
            JobCommand::Rollback(args) => job_rollback::run(args, session).await,
            JobCommand::Hold(args) => job_change::hold(args, session).await,
            JobCommand::Release(args) => job_change::release(args, session).await,
            JobCommand::Purge(args) => job_change::purge(args, session).await,
            JobCommand::Wait(args) => job_wait::run(args, session).await,
        }
    }
}

impl GpuCommand {
    async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            GpuCommand::List(args) => gpu_list::run(args, session).await,
            GpuCommand::Show(args) => gpu_show::run(args, session).await,
            GpuCommand::Cordon(args) => gpu_change::cordon(args, session).await,
            GpuCommand::Uncordon(args) => gpu_change::uncordon(args, session).await,
        }
    }
}

impl NodeCommand {
    async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            NodeCommand::List(args) => node_list::run(args, session).await,
            NodeCommand::Show(args) => node_show::run(args, session).await,
            NodeCommand::Cordon(args) => node_change::cordon(args, session).await,
            NodeCommand::Uncordon(args) => node_change::uncordon(args, session).await,
            NodeCommand::Drain(args) => node_drain::run(args, session).await,
            NodeCommand::Defrag(args) => node_defrag::run(args, session).await,
        }
    }
}

impl OperatorCommand {
    async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            OperatorCommand::Status(args) => operator_status::run(args, session).await,
            OperatorCommand::Promote(args) => operator_members::promote(args, session).await,
            OperatorCommand::Remove(args) => operator_members::remove(args, session).await,
            OperatorCommand::Transfer(args) => operator_transfer::run(args, session).await,
            OperatorCommand::Snapshot(command) => command.run(session).await,
            OperatorCommand::Policy(command) => command.run(session).await,
            OperatorCommand::Debug(command) => command.run(session).await,
            OperatorCommand::RecoverAdmin(args) => operator_recover_admin::run(args, session).await,
            OperatorCommand::Finalize => operator_finalize::run(session).await,
            OperatorCommand::Resume => operator_resume::run(session).await,
        }
    }
}
