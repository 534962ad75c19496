//! Which task runs where: a pure function from a view to proposed placements,
//! and the reasons for what it leaves waiting. It refuses to know clocks,
//! chance, transports and logs; what it proposes counts only once apply has
//! checked it again.

#![forbid(unsafe_code)]

pub mod budget;
pub mod change;
pub mod defragment;
mod devices;
pub mod domain;
mod elsewhere;
mod expected;
pub mod explain;
mod fair;
mod filters;
#[cfg(test)]
mod fixture;
mod hindrances;
mod host;
mod imagined;
mod kinds;
pub mod mix;
mod never;
mod places;
pub mod plan;
pub mod planner;
mod policies;
pub mod queue;
mod quota;
mod ranking;
mod reasons;
mod reckoned;
mod replay;
pub mod report;
mod resources;
mod roster;
mod scarcity;
mod search;
pub mod soft;
mod sure;
mod terms;
mod unusable;
mod urgency;
mod victims;
mod walk;
mod waste;
pub mod what_if;

pub use budget::Budget;
pub use change::{Change, ChangeKind};
pub use elsewhere::{Elsewhere, Taken};
pub use explain::{Explanation, Running, explain};
pub use imagined::{ImaginedNodes, with_nodes};
pub use mix::{Mix, MixCounts, MixKind};
pub use never::never_fits;
pub use plan::{plan, plan_jobs};
pub use planner::Planner;
pub use quota::{passes_quota, waits_for_quota};
pub use reasons::{Reason, misfit_code};
pub use replay::{decide_anew, decision_of};
pub use report::{PlanOutcome, PlanReport, WaitingTask, Why};
pub use soft::{NodeLoad, SoftView};
pub use what_if::{PlanPreview, what_would_happen};
