//! Which node is preferred among those that fit: a policy, by name, that a job says, or that is
//! set for its pool or for the cluster.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::name::Name;
use crate::spec::JobSpec;

/// Pools that may have a default of their own: more than anybody tells apart, and little beside
/// what else stands in the row of the cluster, at some 70 bytes each.
pub const POOL_POLICIES_MAX: usize = 256;

/// Which node is preferred among those that fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Policy {
    /// The node with the most free capacity.
    LeastLoaded,
    /// Nodes in turn.
    RoundRobin,
    /// The node that the work fills best.
    BestFit,
    /// The node with the fewest instances of the same job.
    Spread,
    /// The host with the most processor, memory and network free.
    ResourceAware,
    /// The node with the fewest live allocations.
    LeastAllocations,
    /// GPUs that are in use already before idle ones.
    GpuPacking,
    /// Where the fewest idle GPUs become useless for what the cluster is asked for.
    Fgd,
    /// The node that was registered first.
    FirstFit,
    /// Berth's own: where the cluster loses the least of its GPUs for those who come later.
    #[default]
    Berth,
}

/// Why a job has the policy that it has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PolicyOrigin {
    /// It says so; also of what was submitted before anything else could be meant.
    #[default]
    Job,
    /// It says nothing, and what stands in its place gives way to a default. Of a submit alone:
    /// no job that was let in has it.
    LeftOut,
    /// What was set for its pool when it was submitted.
    Pool,
    /// What was set for the cluster.
    Cluster,
    /// Nothing was set.
    Berth,
}

/// What stands for a policy that a job leaves out.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct PolicyDefaults {
    pub cluster: Option<Policy>,
    /// Of jobs that name their pool; at most [`POOL_POLICIES_MAX`].
    pub pools: BTreeMap<Name, Policy>,
}

impl Policy {
    pub const ALL: [Policy; 10] = [
        Policy::LeastLoaded,
        Policy::RoundRobin,
        Policy::BestFit,
        Policy::Spread,
        Policy::ResourceAware,
        Policy::LeastAllocations,
        Policy::GpuPacking,
        Policy::Fgd,
        Policy::FirstFit,
        Policy::Berth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Policy::LeastLoaded => "least-loaded",
            Policy::RoundRobin => "round-robin",
            Policy::BestFit => "best-fit",
            Policy::Spread => "spread",
            Policy::ResourceAware => "resource-aware",
            Policy::LeastAllocations => "least-allocations",
            Policy::GpuPacking => "gpu-packing",
            Policy::Fgd => "fgd",
            Policy::FirstFit => "first-fit",
            Policy::Berth => "berth",
        }
    }
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Policy, ()> {
        Policy::ALL.into_iter().find(|policy| policy.name() == text).ok_or(())
    }
}

impl PolicyOrigin {
    pub const ALL: [PolicyOrigin; 5] = [
        PolicyOrigin::Job,
        PolicyOrigin::LeftOut,
        PolicyOrigin::Pool,
        PolicyOrigin::Cluster,
        PolicyOrigin::Berth,
    ];

    /// One word for programs.
    pub fn name(self) -> &'static str {
        match self {
            PolicyOrigin::Job => "job",
            PolicyOrigin::LeftOut => "left-out",
            PolicyOrigin::Pool => "pool",
            PolicyOrigin::Cluster => "cluster",
            PolicyOrigin::Berth => "berth",
        }
    }

    /// For people, behind the policy.
    pub fn told(self) -> &'static str {
        match self {
            PolicyOrigin::Job => "said by the job",
            PolicyOrigin::LeftOut => "left out",
            PolicyOrigin::Pool => "default of its pool",
            PolicyOrigin::Cluster => "default of the cluster",
            PolicyOrigin::Berth => "nothing else is said",
        }
    }
}

impl PolicyDefaults {
    /// Fills in what the job left out. A job that names its pool gets what is set for that, else
    /// what is set for the cluster, else `berth`.
    pub fn fill(&self, spec: &mut JobSpec) {
        match spec.policy_origin {
            PolicyOrigin::LeftOut => {}
            PolicyOrigin::Job
            | PolicyOrigin::Pool
            | PolicyOrigin::Cluster
            | PolicyOrigin::Berth => return,
        }
        let of_pool = spec.constraints.pool.as_ref().and_then(|pool| self.pools.get(pool));
        let of_pool = of_pool.map(|policy| (*policy, PolicyOrigin::Pool));
        let of_cluster = self.cluster.map(|policy| (policy, PolicyOrigin::Cluster));
        (spec.policy, spec.policy_origin) =
            of_pool.or(of_cluster).unwrap_or((Policy::default(), PolicyOrigin::Berth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Constraints, JobKind};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn what_a_job_left_out_is_its_pools_else_the_clusters_else_berths() {
        let check = |(policy, origin, pool): (Policy, PolicyOrigin, Option<&str>),
                     (cluster, gold): (Option<Policy>, Option<Policy>),
                     expected: (Policy, PolicyOrigin)| {
            let pools = gold.map(|policy| (name("gold"), policy)).into_iter().collect();
            let mut spec = JobSpec::new(name("job"), name("default"), JobKind::Batch, Vec::new());
            spec.constraints = Constraints { pool: pool.map(name), ..Constraints::default() };
            (spec.policy, spec.policy_origin) = (policy, origin);
            PolicyDefaults { cluster, pools }.fill(&mut spec);
            let case = (policy, origin, pool, cluster, gold);
            assert_eq!((spec.policy, spec.policy_origin), expected, "{case:?}");
        };
        use Policy::{Berth, Fgd, RoundRobin, Spread};
        use PolicyOrigin as From;
        let silent = |pool| (Berth, From::LeftOut, pool);
        check(silent(None), (None, None), (Berth, From::Berth));
        check(silent(None), (Some(Fgd), None), (Fgd, From::Cluster));
        check(silent(None), (Some(Fgd), Some(Spread)), (Fgd, From::Cluster));
        check(silent(None), (None, Some(Spread)), (Berth, From::Berth));
        check(silent(Some("gold")), (Some(Fgd), Some(Spread)), (Spread, From::Pool));
        check(silent(Some("gold")), (Some(Fgd), None), (Fgd, From::Cluster));
        check(silent(Some("tin")), (Some(Fgd), Some(Spread)), (Fgd, From::Cluster));
        check(silent(Some("tin")), (None, Some(Spread)), (Berth, From::Berth));
        let defaults = (Some(Fgd), Some(Spread));
        // What stands beside a silence gives way, whatever it is.
        check((RoundRobin, From::LeftOut, None), defaults, (Fgd, From::Cluster));
        for kept in [From::Job, From::Pool, From::Cluster, From::Berth] {
            check((RoundRobin, kept, Some("gold")), defaults, (RoundRobin, kept));
            check((RoundRobin, kept, None), defaults, (RoundRobin, kept));
        }
    }
}
