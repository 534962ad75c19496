//! What the last look shows of each GPU, as metrics with the names that DCGM's exporter has for
//! them, so that dashboards for it show Berth's GPUs.

use super::said::GpuLook;

const MIB: f64 = 1_048_576.0;

/// Tells what the metrics are.
pub fn describe() {
    for (name, what) in [
        ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)"),
        ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)"),
        ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)"),
        ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)"),
        ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)"),
        ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz)"),
    ] {
        metrics::describe_gauge!(name, what);
    }
}

/// Sets the gauges of a GPU; what it does not tell has none. One that does not answer any
/// more is no number: what was true once is not shown as true now.
pub fn show(look: &GpuLook, answers: Answers) {
    let known = |value: Option<f64>| match answers {
        Answers::Yes => value,
        Answers::No => value.map(|_| f64::NAN),
    };
    let used = look.memory_used_bytes.map(as_float);
    let free = look.memory_used_bytes.map(|used| look.memory_total_bytes.saturating_sub(used));
    for (name, value) in [
        ("DCGM_FI_DEV_GPU_UTIL", look.utilization_percent.map(f64::from)),
        ("DCGM_FI_DEV_FB_USED", used.map(|bytes| bytes / MIB)),
        ("DCGM_FI_DEV_FB_FREE", free.map(|bytes| as_float(bytes) / MIB)),
        ("DCGM_FI_DEV_GPU_TEMP", look.temperature_celsius.map(f64::from)),
        (
            "DCGM_FI_DEV_POWER_USAGE",
            look.power_milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0),
        ),
        ("DCGM_FI_DEV_SM_CLOCK", look.clock_mhz.map(f64::from)),
    ] {
        let Some(value) = known(value) else { continue };
        let labels = [
            ("gpu", look.index.to_string()),
            ("UUID", look.uuid.clone()),
            ("modelName", look.name.clone()),
        ];
        metrics::gauge!(name, &labels).set(value);
    }
}

/// Whether a GPU answers now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    Yes,
    No,
}

#[expect(clippy::cast_precision_loss, reason = "memory in bytes is far below 2^52")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}
