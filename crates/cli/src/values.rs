//! Values of options, with the words for those that are wrong.

use std::time::UNIX_EPOCH;

use berth_config::units;
use berth_model::node::DEVICES_MAX;
use berth_model::validate::INSTANCES_MAX;
use berth_model::{GpuRequest, IMAGINED_MAX, Name, Policy};
use berth_proto::v1::ImaginedNodes;
use berth_sim::jobs::{QueuePart, QueuePolicy};
use berth_sim::place::MovesMax;

/// The longest that anybody waits for a command or a drain.
const WAIT_MS_MAX: u64 = 7 * 86_400_000;
/// The longest that a simulated job takes to start again.
const RESTART_MS_MAX: u64 = 86_400_000;
const DURATION: &str = "expected a duration such as 90s, 5m, 2h; at most 7d";

/// A duration in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    units::duration_ms_between(text, 1, WAIT_MS_MAX)
        .map_err(|error| format!("{}; {DURATION}", error.problem))
}

/// A moment as it is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Milliseconds since 1970.
    At(u64),
    /// So many milliseconds from now.
    In(u64),
}

impl Moment {
    /// Milliseconds since 1970, where it is `now_ms`.
    pub(crate) fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Moment::At(at_ms) => at_ms,
            Moment::In(span_ms) => now_ms.saturating_add(span_ms),
        }
    }
}

/// A time in UTC, or a duration after now behind a `+`.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    const ALLOWED: &str = "expected a time in UTC such as 2026-11-25T18:00:00Z, or +30m";
    if let Some(span) = text.strip_prefix('+') {
        return duration_ms(span).map(Moment::In).map_err(|_| format!("{ALLOWED}, at most +7d"));
    }
    let at = humantime::parse_rfc3339(text).map_err(|_| ALLOWED.to_owned())?;
    let since = at.duration_since(UNIX_EPOCH).map_err(|_| ALLOWED.to_owned())?;
    u64::try_from(since.as_millis()).map(Moment::At).map_err(|_| ALLOWED.to_owned())
}

/// A duration that the configuration will read.
pub(crate) fn timeout_text(text: &str) -> Result<String, String> {
    duration_ms(text).map(|_| text.to_owned())
}

/// `nodes=+COUNTxGPUS`, each with cores and memory as a simulated node has them.
pub(crate) fn imagined_nodes(text: &str) -> Result<ImaginedNodes, String> {
    const ALLOWED: &str = "expected nodes=+COUNTxGPUS, such as nodes=+2x8xH100-80GB";
    let nodes = text.strip_prefix("nodes=+").ok_or(ALLOWED)?;
    let (count, gpus) = nodes.split_once('x').ok_or(ALLOWED)?;
    let count = count.parse().ok().filter(|count| (1..=IMAGINED_MAX).contains(count));
    let count = count.ok_or_else(|| format!("expected 1 to {IMAGINED_MAX} nodes; {ALLOWED}"))?;
    let gpus = units::simulated_gpus(gpus).map_err(|error| error.to_string())?;
    Ok(ImaginedNodes {
        count,
        gpus: gpus.count,
        gpu_memory_bytes: gpus.memory_bytes,
        cpu_milli: units::CPU_MILLI_PER_GPU * u64::from(gpus.count),
        memory_bytes: units::MEMORY_BYTES_PER_GPU * u64::from(gpus.count),
        model: gpus.model,
    })
}

/// Whole GPUs, a part of one, or `MODEL:COUNT`.
pub(crate) fn gpus(text: &str) -> Result<GpuRequest, String> {
    let allowed = format!(
        "expected 1 to {DEVICES_MAX} whole GPUs of one node, a part of one such as 0.5, or MODEL:COUNT such as A100:2"
    );
    let is_count = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let request = if is_count && digits {
        GpuRequest::whole(text.parse().map_err(|_| allowed.clone())?)
    } else if is_count {
        let share = berth_jobfile::parse_share(text).map_err(|_| allowed.clone())?;
        GpuRequest { share, ..GpuRequest::whole(1) }
    } else {
        berth_jobfile::parse_gpu(text)?
    };
    let fits = request.count >= 1 && request.count as usize <= DEVICES_MAX;
    if fits { Ok(request) } else { Err(allowed) }
}

/// A placement policy by its name.
pub(crate) fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|()| {
        let names: Vec<&str> = Policy::ALL.iter().map(|policy| policy.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// A number of moves, or a part of the tasks that have been placed, such as `1%`.
pub(crate) fn moves_max(text: &str) -> Result<MovesMax, String> {
    let wrong =
        || "expected a number of moves, or a part of the placed tasks such as 1%".to_owned();
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().map(MovesMax::Count).map_err(|_| wrong());
    };
    let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 2 {
        return Err(wrong());
    }
    let parts: u32 = format!("{whole}{part:0<2}").parse().map_err(|_| wrong())?;
    let of_placed = Some(parts).filter(|parts| *parts <= 10_000);
    of_placed.map(MovesMax::OfPlaced).ok_or_else(|| "expected at most 100%".to_owned())
}

/// A queue's policy by its name.
pub(crate) fn queue_policy(text: &str) -> Result<QueuePolicy, String> {
    text.parse().map_err(|()| {
        let names: Vec<&str> = QueuePolicy::ALL.iter().map(|policy| policy.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// A part of the queue's policy `berth` by its name.
pub(crate) fn queue_part(text: &str) -> Result<QueuePart, String> {
    text.parse().map_err(|()| {
        let names: Vec<&str> = QueuePart::ALL.iter().map(|part| part.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// What a simulated job takes to start again, in milliseconds; it may be nothing.
pub(crate) fn restart_cost_ms(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    units::duration_ms_between(text, 0, RESTART_MS_MAX).map_err(|error| {
        format!("{}; expected 0, or a duration such as 30s, 2m; at most 1d", error.problem)
    })
}

/// How many instances.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|count| digits && (1..=INSTANCES_MAX).contains(count));
    read.ok_or_else(|| format!("expected 1 to {INSTANCES_MAX}"))
}

/// How many replicas; 0 stops a service without ending it.
pub(crate) fn replicas(text: &str) -> Result<u32, String> {
    if text == "0" {
        Ok(0)
    } else {
        count(text).map_err(|_| format!("expected 0 to {INSTANCES_MAX}"))
    }
}

pub(crate) fn cpu_milli(text: &str) -> Result<u64, String> {
    units::cpu_milli(text).map_err(|error| format!("{}; expected {}", error.problem, error.allowed))
}

pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    units::size_bytes(text)
        .map_err(|error| format!("{}; expected {}", error.problem, error.allowed))
}

pub(crate) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

/// A name, an id or a prefix of one; never empty, since that would be "any".
pub(crate) fn reference(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("expected an id or a name".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_end_after_a_week() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        for text in ["5", "-5m", "1e9h", "8d", "0s", ""] {
            let error = duration_ms(text).unwrap_err();
            assert!(error.contains(DURATION), "{text}: {error}");
        }
    }

    #[test]
    fn moments_are_in_utc_or_from_now() {
        assert_eq!(moment("1970-01-01T00:01:00Z"), Ok(Moment::At(60_000)));
        assert_eq!(moment("+30m").map(|one| one.at_ms(5)), Ok(1_800_005));
        for text in [
            "",
            "tomorrow",
            "+30",
            "+8d",
            "2026-11-25",
            "2026-11-25T18:00:00",
            "1969-01-01T00:00:00Z",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moves_are_a_number_or_a_part() {
        let cases = [
            ("0", MovesMax::Count(0)),
            ("80", MovesMax::Count(80)),
            ("1%", MovesMax::OfPlaced(100)),
            ("0.5%", MovesMax::OfPlaced(50)),
            ("0.05%", MovesMax::OfPlaced(5)),
            ("100%", MovesMax::OfPlaced(10_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(moves_max(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "-1", "1.5", "1.005%", "1.%", "+1%", "100.01%", "99999999999%"] {
            let error = moves_max(text).unwrap_err();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn nodes_are_imagined_by_count_and_what_they_have() {
        let two = imagined_nodes("nodes=+2x8xH100-80GB").unwrap();
        assert_eq!((two.count, two.gpus, two.model.as_str()), (2, 8, "H100"));
        assert_eq!((two.gpu_memory_bytes, two.cpu_milli), (80_000_000_000, 128_000));
        assert_eq!(two.memory_bytes, 1 << 40);
        for text in [
            "2x8xH100-80GB",
            "nodes=2x8xH100-80GB",
            "nodes=+8xH100",
            "nodes=+0x8xH100-80GB",
            "nodes=+10001x8xH100-80GB",
            "nodes=+-1x8xH100-80GB",
            "nodes=+2x65xH100-80GB",
            "nodes=+2x8xH100-80",
            "gpus=+2",
        ] {
            let error = imagined_nodes(text).unwrap_err();
            assert!(error.contains("such as"), "{text}: {error}");
        }
    }

    #[test]
    fn gpus_are_few_or_a_part_of_one() {
        assert_eq!(gpus("2").map(|gpus| gpus.count), Ok(2));
        assert_eq!(
            gpus("A100:2").map(|gpus| (gpus.count, gpus.models)),
            Ok((2, vec!["A100".into()]))
        );
        for (text, milli) in [("0.5", 500), ("A100:0.125", 125), ("0.001", 1), ("1.0", 1000)] {
            let read = gpus(text).map(|gpus| (gpus.count, gpus.share.0));
            assert_eq!(read, Ok((1, milli)), "{text}");
        }
        for text in [
            "0",
            "-1",
            "1.5",
            "0.0",
            "-0.5",
            ".5",
            "0.0001",
            "1.5x",
            "65",
            "99999999999999999999",
            "A100:0",
        ] {
            let error = gpus(text).unwrap_err();
            assert!(error.contains("expected 1 to 64 whole GPUs"), "{text}: {error}");
        }
    }
}
