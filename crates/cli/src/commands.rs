//! One file for each command; those that differ in one call alone share a file.

pub(crate) mod cluster_events;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod gpu_list;
pub(crate) mod job_change;
pub(crate) mod job_events;
pub(crate) mod job_explain;
pub(crate) mod job_history;
pub(crate) mod job_list;
pub(crate) mod job_rollback;
pub(crate) mod job_scale;
pub(crate) mod job_show;
pub(crate) mod job_wait;
pub(crate) mod logs;
pub(crate) mod node_change;
pub(crate) mod node_drain;
pub(crate) mod node_list;
pub(crate) mod node_show;
pub(crate) mod operator_members;
pub(crate) mod operator_snapshot;
pub(crate) mod operator_status;
pub(crate) mod operator_transfer;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod submit;
pub(crate) mod version;
