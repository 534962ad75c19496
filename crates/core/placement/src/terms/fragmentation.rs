//! Fragmentation gradient descent: the node, and the device of it, on which a task makes the
//! fewest idle GPUs useless for the cluster's mix of tasks (Weng et al., "Beware of
//! Fragmentation", USENIX ATC 2023).

use berth_model::GpuRequest;

use super::Look;
use crate::devices;
use crate::unusable::Idle;

/// Scores are whole numbers from 0 to 100, as in the paper's artifact, where a step near the
/// middle is some 40 thousandths of a GPU. The coarseness is part of the policy: compared as
/// exact numbers the gradient fills the cluster less well, as nodes that differ by next to
/// nothing are then opened one after another instead of being filled.
const BEST: u32 = 100;

/// A gradient of at least this much, in thousandths of a GPU times `WEIGHTS_TOTAL`, is worth
/// 1, 2 and so on to 99: the least integers that are not below 1000 ln(s / (100 - s)) times
/// `WEIGHTS_TOTAL`, which makes the score floor(100 / (1 + exp(-gradient / 1000))).
#[rustfmt::skip]
pub(super) const STEPS: [i64; 99] = [
    -301_145_774, -255_054_335, -227_809_603, -208_276_935, -192_966_752, -180_324_618,
    -169_521_272, -160_061_655, -151_626_378, -143_997_309, -137_018_808, -130_575_903,
    -124_581_233, -118_966_843, -113_678_814, -108_673_635, -103_915_668, -99_375_349,
    -95_027_866, -90_852_187, -86_830_311, -82_946_711, -79_187_883, -75_542_004,
    -71_998_654, -68_548_595, -65_183_585, -61_896_235, -58_679_888, -55_528_512,
    -52_436_618, -49_399_188, -46_411_615, -43_469_649, -40_569_353, -37_707_064,
    -34_879_361, -32_083_032, -29_315_053, -26_572_561, -23_852_834, -21_153_277,
    -18_471_397, -15_804_796, -13_151_154, -10_508_215, -7_873_777, -5_245_678,
    -2_621_789, 0, 2_621_790, 5_245_679, 7_873_778, 10_508_216,
    13_151_155, 15_804_797, 18_471_398, 21_153_278, 23_852_835, 26_572_562,
    29_315_054, 32_083_033, 34_879_362, 37_707_065, 40_569_354, 43_469_650,
    46_411_616, 49_399_189, 52_436_619, 55_528_513, 58_679_889, 61_896_236,
    65_183_586, 68_548_596, 71_998_655, 75_542_005, 79_187_884, 82_946_712,
    86_830_312, 90_852_188, 95_027_867, 99_375_350, 103_915_669, 108_673_636,
    113_678_815, 118_966_844, 124_581_234, 130_575_904, 137_018_809, 143_997_310,
    151_626_379, 160_061_656, 169_521_273, 180_324_619, 192_966_753, 208_276_936,
    227_809_604, 255_054_336, 301_145_775,
];

/// 0 to 100, less is better.
pub(super) fn fragmentation(look: Look<'_>) -> u32 {
    let idle = Idle::of(look.host);
    let before = look.inputs.table.fragmentation(&idle);
    let Some((after, _)) = best_trial(look, idle) else { return BEST };
    let gain = i64::try_from(before).unwrap_or(i64::MAX) - i64::try_from(after).unwrap_or(i64::MAX);
    let score = STEPS.partition_point(|least| *least <= gain);
    BEST - u32::try_from(score).unwrap_or(BEST)
}

/// The devices that leave the least useless; of a share the first among equals.
pub(crate) fn least_fragmenting(look: Look<'_>) -> Option<Vec<usize>> {
    best_trial(look, Idle::of(look.host)).map(|(_, chosen)| chosen)
}

/// The fragmentation of the node with the task on it, and which devices it is on.
fn best_trial(look: Look<'_>, mut idle: Idle) -> Option<(u64, Vec<usize>)> {
    idle.cpu_milli = idle.cpu_milli.saturating_sub(look.task.cpu.0);
    match &look.task.gpu {
        None => Some((look.inputs.table.fragmentation(&idle), Vec::new())),
        Some(gpu) if gpu.is_shared() => best_share(look, gpu, &mut idle),
        Some(gpu) => {
            let chosen = devices::tightest(look.host, gpu, look.suits)?;
            for at in &chosen {
                idle.devices[*at].1 = 0;
            }
            Some((look.inputs.table.fragmentation(&idle), chosen))
        }
    }
}

fn best_share(look: Look<'_>, gpu: &GpuRequest, idle: &mut Idle) -> Option<(u64, Vec<usize>)> {
    let mut best: Option<(u64, usize)> = None;
    let mut tried: Vec<(usize, u32)> = Vec::new();
    for at in look.host.open_spots(gpu, look.suits) {
        let whole = idle.devices[at];
        if tried.contains(&whole) {
            continue;
        }
        tried.push(whole);
        idle.devices[at].1 = whole.1.saturating_sub(gpu.share.0);
        let after = look.inputs.table.fragmentation(idle);
        idle.devices[at] = whole;
        if best.is_none_or(|(least, _)| after < least) {
            best = Some((after, at));
        }
    }
    best.map(|(after, at)| (after, vec![at]))
}
