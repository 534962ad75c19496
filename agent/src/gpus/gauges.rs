//! What the last look shows of each GPU, as metrics with the names that DCGM's exporter has for
//! them, so that dashboards for it show Berth's GPUs. Written anew for each scrape from what is
//! known then: a series of a GPU that is gone would go on for ever in a registry.

use std::fmt::Write as _;

use berth_proto::v1::MemoryErrors;

use super::said::GpuLook;
use super::seen::Seen;

const MIB: f64 = 1_048_576.0;

/// Whether a GPU answers now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    Yes,
    No,
}

/// A metric of each GPU.
struct Shown {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: fn(&GpuLook) -> Option<f64>,
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&GpuLook) -> Option<f64>,
) -> Shown {
    Shown { name, help, kind: "gauge", value }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&GpuLook) -> Option<f64>,
) -> Shown {
    Shown { name, help, kind: "counter", value }
}

const SHOWN: [Shown; 14] = [
    gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", |look| {
        look.utilization_percent.map(f64::from)
    }),
    gauge("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", |look| {
        look.memory_used_bytes.map(|bytes| as_float(bytes) / MIB)
    }),
    gauge("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", |look| {
        let used = look.memory_used_bytes?;
        Some(as_float(look.memory_total_bytes.saturating_sub(used)) / MIB)
    }),
    gauge("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", |look| {
        look.temperature_celsius.map(f64::from)
    }),
    gauge("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", |look| {
        look.power_milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0)
    }),
    gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", |look| {
        look.clock_mhz.map(f64::from)
    }),
    counter(
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        "Total number of single-bit volatile ECC errors.",
        |look| errors(look).corrected_volatile.map(as_float),
    ),
    counter(
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "Total number of double-bit volatile ECC errors.",
        |look| errors(look).uncorrected_volatile.map(as_float),
    ),
    counter(
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
        "Total number of single-bit persistent ECC errors.",
        |look| errors(look).corrected_aggregate.map(as_float),
    ),
    counter(
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        "Total number of double-bit persistent ECC errors.",
        |look| errors(look).uncorrected_aggregate.map(as_float),
    ),
    counter(
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "Number of remapped rows for correctable errors.",
        |look| errors(look).rows_remapped_corrected.map(as_float),
    ),
    counter(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "Number of remapped rows for uncorrectable errors.",
        |look| errors(look).rows_remapped_uncorrected.map(as_float),
    ),
    gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", "Whether remapping of rows is pending.", |look| {
        errors(look).remap_pending.map(|is| f64::from(u8::from(is)))
    }),
    gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed.", |look| {
        errors(look).remap_failed.map(|is| f64::from(u8::from(is)))
    }),
];

/// The GPUs in the text format of Prometheus. What a GPU does not tell has no line. One that
/// does not answer any more is no number: what was true once is not shown as true now. One that
/// is gone has no lines at all.
pub fn page(seen: &Seen) -> String {
    let gpus = seen.shown();
    let mut text = String::new();
    for Shown { name, help, kind, value } in &SHOWN {
        let lines: String = gpus
            .iter()
            .filter_map(|(look, answers)| {
                let value = value(look)?;
                let value = if *answers == Answers::Yes { value } else { f64::NAN };
                Some(format!("{name}{{{}}} {value}\n", labels(look)))
            })
            .collect();
        if !lines.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}\n");
        }
    }
    text
}

fn labels(look: &GpuLook) -> String {
    let (uuid, name) = (escaped(&look.uuid), escaped(&look.name));
    format!("gpu=\"{}\",UUID=\"{uuid}\",modelName=\"{name}\"", look.index)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn errors(look: &GpuLook) -> MemoryErrors {
    look.memory_errors.unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory and counts are far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::said::{Look, Said};
    use super::*;

    fn look(uuids: &[&str]) -> Look {
        let gpu = |(index, uuid): (u32, &&str)| GpuLook {
            index,
            uuid: (*uuid).to_owned(),
            name: "a \"GPU\"".to_owned(),
            memory_total_bytes: 3 << 20,
            memory_used_bytes: Some(1 << 20),
            memory_errors: Some(MemoryErrors {
                uncorrected_volatile: Some(2),
                remap_pending: Some(true),
                ..MemoryErrors::default()
            }),
            ..GpuLook::default()
        };
        Look { gpus: (0..).zip(uuids).map(gpu).collect(), ..Look::default() }
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_no_number_and_one_that_is_gone_has_no_line() {
        let mut seen = Seen::default();
        assert_eq!(page(&seen), "");
        seen.hear(Said::Look(look(&["GPU-a", "GPU-b"])));
        let text = page(&seen);
        let of = |name: &str, value: &str| {
            format!("{name}{{gpu=\"1\",UUID=\"GPU-b\",modelName=\"a \\\"GPU\\\"\"}} {value}\n")
        };
        for (name, value) in [
            ("DCGM_FI_DEV_FB_USED", "1"),
            ("DCGM_FI_DEV_FB_FREE", "2"),
            ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "2"),
            ("DCGM_FI_DEV_ROW_REMAP_PENDING", "1"),
        ] {
            assert!(text.contains(&of(name, value)), "{name}: {text}");
        }
        assert!(text.contains("# TYPE DCGM_FI_DEV_ECC_DBE_VOL_TOTAL counter\n"), "{text}");
        assert!(!text.contains("GPU_UTIL") && !text.contains("SBE"), "it does not tell: {text}");
        seen.hear(Said::Look(look(&["GPU-a"])));
        assert!(page(&seen).contains(&of("DCGM_FI_DEV_FB_USED", "NaN")), "missing once");
        seen.hear(Said::Look(Look { lost: vec!["GPU-b".to_owned()], ..look(&["GPU-a"]) }));
        let text = page(&seen);
        assert!(!text.contains("GPU-b") && text.contains("GPU-a"), "{text}");
        seen.fall_silent();
        assert!(page(&seen).contains("NaN"), "nobody knows now");
    }
}
