//! Berth's own measure of a place: how much of the cluster's GPUs it can be expected to lose
//! for those who come later. Losses are added up, each in thousandths of a GPU: GPUs that are
//! stranded as the processor of their node runs out, remnants of shared GPUs that nothing
//! completes, GPUs of a kind that others cannot do without, and, where processors are what
//! runs out, cores that a task without GPUs leaves idle. docs/placement.md says what each of
//! them buys.

use berth_model::GpuRequest;

use super::Look;
use crate::devices;
use crate::host::Host;
use crate::mix::Mix;
use crate::waste::PARTS;

/// Costs are compared in steps of so many thousandths: nodes that differ by less are filled
/// one after another.
const STEP_MILLI: i64 = 5;
/// So that the steps, of which filling a remnant makes negative ones, can be compared as
/// unsigned: far more than the largest node has.
const ZERO: i64 = 1 << 24;
/// A GPU that is stranded counts this often: what is short on one node is hardly ever freed
/// by moving work to another.
const STRANDED_WEIGHT: u64 = 2;
/// A node strands GPUs when it has less processor for each than nine tenths of what tasks ask
/// for on average; the tenth is what mixing light and heavy tasks on a node makes up for.
const NEEDED_CPU_TENTHS: u128 = 9;

/// What a place costs by itself; scarcity is added when nodes of several kinds are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Losses {
    pub stranded_milli: i64,
    pub remnants_milli: i64,
    /// Cores that a task without GPUs leaves idle.
    pub cores_milli: i64,
}

impl Losses {
    /// All of them together.
    pub fn milli(self) -> i64 {
        let Losses { stranded_milli, remnants_milli, cores_milli } = self;
        stranded_milli.saturating_add(remnants_milli).saturating_add(cores_milli)
    }

    /// All of them together, in steps.
    pub fn steps(self) -> u32 {
        let steps = self.milli().saturating_add(STEP_MILLI / 2).div_euclid(STEP_MILLI) + ZERO;
        u32::try_from(steps.max(0)).unwrap_or(u32::MAX)
    }
}

/// What is left of a node.
struct Rest {
    cpu_milli: u64,
    /// Of all devices that take work together, in thousandths.
    gpu_milli: u64,
    /// The expected waste of their remnants, in `PARTS`.
    waste: u64,
}

/// The steps, which begin at a number that stands for no cost at all.
pub(super) fn cost(look: Look<'_>) -> u32 {
    best_place(look).map_or(u32::MAX, |(losses, _)| losses.steps())
}

/// What is to be added to the steps for taking so much of a kind of this price. Without GPUs
/// it is one step for a node that has any: between a place that costs nothing there and one on
/// a node without, the latter.
pub(crate) fn price_steps(gpu: Option<&GpuRequest>, price: u32) -> u32 {
    let Some(gpu) = gpu else { return 1 };
    let milli = u64::from(price) * u64::from(gpu.count) * u64::from(gpu.share.0) / 1000;
    u32::try_from(milli / STEP_MILLI.unsigned_abs()).unwrap_or(u32::MAX)
}

/// What it comes to for people, in thousandths of a GPU; steps begin anew at each cost.
pub(crate) fn milli_of_steps(steps: u32) -> i64 {
    (i64::from(steps) - ZERO) * STEP_MILLI
}

/// What is expected to be lost of a node as it is, in thousandths of a GPU.
pub(crate) fn lost_of(host: &Host, mix: &Mix) -> i64 {
    let rest = Rest::of(host, mix);
    let milli = rest.stranded_milli(mix).saturating_add(rest.waste / PARTS);
    i64::try_from(milli).unwrap_or(i64::MAX)
}

/// The devices with the least loss, of a share the first among equals, and that loss; `None`
/// if there is no room.
pub(crate) fn best_place(look: Look<'_>) -> Option<(Losses, Vec<usize>)> {
    let before = Rest::of(look.host, look.inputs.mix);
    let cpu_milli = before.cpu_milli.saturating_sub(look.task.cpu.0);
    let Some(gpu) = &look.task.gpu else {
        let after = Rest { cpu_milli, ..before };
        let cores = u64::from(look.inputs.core_price) * cpu_milli / 1000;
        let losses = Losses {
            cores_milli: i64::try_from(cores).unwrap_or(i64::MAX),
            ..losses(&before, &after, look.inputs.mix)
        };
        return Some((losses, Vec::new()));
    };
    let chosen = if gpu.is_shared() {
        vec![least_wasteful(look, gpu)?]
    } else {
        devices::tightest(look.host, gpu, look.suits)?
    };
    let waste = &look.inputs.mix.waste;
    let mut after = Rest { cpu_milli, ..before };
    for at in &chosen {
        let left = look.host.spots[*at].share_free;
        let rest = left.saturating_sub(gpu.share.0);
        after.gpu_milli -= u64::from(left - rest);
        after.waste = after.waste - waste.of(left) + waste.of(rest);
    }
    Some((losses(&before, &after, look.inputs.mix), chosen))
}

/// Of the devices with room for a share the one whose remnant gains least waste.
fn least_wasteful(look: Look<'_>, gpu: &GpuRequest) -> Option<usize> {
    let waste = &look.inputs.mix.waste;
    let gain = |at: usize| {
        let spot = &look.host.spots[at];
        let rest = waste.of(spot.share_free.saturating_sub(gpu.share.0));
        (spot.is_suspect, i128::from(rest) - i128::from(waste.of(spot.share_free)), at)
    };
    look.host.open_spots(gpu, look.suits).min_by_key(|at| gain(*at))
}

fn losses(before: &Rest, after: &Rest, mix: &Mix) -> Losses {
    let signed = |milli: u64| i64::try_from(milli).unwrap_or(i64::MAX);
    let parts = i128::from(after.waste) - i128::from(before.waste);
    let milli = parts.div_euclid(i128::from(PARTS));
    Losses {
        stranded_milli: signed(after.stranded_milli(mix)) - signed(before.stranded_milli(mix)),
        remnants_milli: i64::try_from(milli).unwrap_or(i64::MAX),
        cores_milli: 0,
    }
}

impl Rest {
    fn of(host: &Host, mix: &Mix) -> Rest {
        let mut rest = Rest { cpu_milli: host.cpu_free, gpu_milli: 0, waste: 0 };
        for spot in host.spots.iter().filter(|spot| spot.takes_work) {
            rest.gpu_milli += u64::from(spot.share_free);
            rest.waste += mix.waste.of(spot.share_free);
        }
        rest
    }

    /// Idle GPUs for which there is too little processor, weighed.
    fn stranded_milli(&self, mix: &Mix) -> u64 {
        let Some(per_gpu) = mix.cpu_milli_per_gpu else { return 0 };
        let needed = (u128::from(per_gpu) * NEEDED_CPU_TENTHS).max(1);
        let usable = u128::from(self.cpu_milli) * 1000 * 10 / needed;
        let usable = u64::try_from(usable).unwrap_or(u64::MAX);
        STRANDED_WEIGHT * self.gpu_milli.saturating_sub(usable)
    }
}
