//! GPUs that are cut up (MIG), as devices of the node: each part is one, and the whole is none.
//! What befalls the whole befalls its parts.

use berth_model::{Device, DeviceHealth, DeviceSlice, MemoryBytes};
use berth_proto::v1::DeviceSample;

use super::said::{Cut, GpuLook, SliceLook};

/// Parts are counted after all whole GPUs, those of each GPU in a hundred of their own: the
/// third part of GPU 1 is 202.
const INDICES_PER_GPU: u32 = 100;

/// The devices that a GPU is, of what it is as a whole.
pub fn devices(whole: Device, look: &GpuLook) -> Vec<Device> {
    let Some(cut) = &look.cut else { return vec![whole] };
    let device = |slice: &SliceLook| {
        let (mut health, mut reason) = (whole.health, whole.reason.clone());
        if slice.absent_looks.is_some() && health < DeviceHealth::Cordoned {
            (health, reason) =
                (DeviceHealth::Cordoned, "the driver does not count it any more".to_owned());
        }
        Device {
            uuid: slice.uuid.clone(),
            index: index(look.index, slice.number),
            model: if slice.name.is_empty() { whole.model.clone() } else { slice.name.clone() },
            memory: MemoryBytes(slice.memory_total_bytes),
            slice: Some(DeviceSlice { parent: look.uuid.clone(), profile: slice.profile.clone() }),
            health,
            reason,
            ..whole.clone()
        }
    };
    offered(cut).map(device).collect()
}

/// What a heartbeat says of them, of what it would say of the whole. Load is told of the whole
/// only.
pub fn samples(whole: DeviceSample, look: &GpuLook) -> Vec<DeviceSample> {
    let Some(cut) = &look.cut else { return vec![whole] };
    let answers = whole.memory_used_bytes.is_some() || whole.temperature_celsius.is_some();
    let sample = |slice: &SliceLook| DeviceSample {
        uuid: slice.uuid.clone(),
        memory_used_bytes: slice.memory_used_bytes.filter(|_| answers),
        utilization_percent: None,
        ..whole.clone()
    };
    offered(cut).map(sample).collect()
}

/// Whether a part has its memory to itself. Compute instances of one GPU instance (`1c.3g.40gb`)
/// share it: none of them could be given all of it, or be seen free. Of one that never said what
/// it is nobody knows.
fn is_by_itself(slice: &SliceLook) -> bool {
    let first = slice.profile.split('.').next().unwrap_or_default();
    let is_compute = first.strip_suffix('c').is_some_and(|count| count.parse::<u32>().is_ok());
    !first.is_empty() && !is_compute
}

/// Those that are offered. One that never said how much memory it has cannot be given to
/// anybody.
pub fn offered(cut: &Cut) -> impl Iterator<Item = &SliceLook> {
    cut.slices.iter().filter(|slice| slice.memory_total_bytes > 0 && is_by_itself(slice))
}

/// Has a look go on with what the one before it knew: with all parts if it does not say which
/// there are, and with those that it misses for the first times. A driver that is not up to it
/// yet tells of none, or of a whole GPU. `due_looks` is how many this look counts for: one that
/// comes before it is due counts for none.
pub fn go_on(now: &mut GpuLook, before: &GpuLook, due_looks: u32, absent_looks_max: u32) {
    if now.cut_untold {
        now.cut_untold = before.cut_untold;
        now.cut = before.cut.clone().map(without_use);
        return;
    }
    let mut missing = Vec::new();
    for slice in before.cut.iter().flat_map(|cut| &cut.slices) {
        let here = now.cut.iter_mut().flat_map(|cut| &mut cut.slices);
        match here.into_iter().find(|here| here.uuid == slice.uuid) {
            Some(here) => not_told_again(here, slice),
            None => {
                let absent_looks = slice.absent_looks.unwrap_or(0) + due_looks;
                if absent_looks < absent_looks_max {
                    let gone = SliceLook { absent_looks: Some(absent_looks), ..slice.clone() };
                    missing.push(without_its_use(gone));
                }
            }
        }
    }
    if !missing.is_empty() {
        now.cut.get_or_insert_default().slices.extend(missing);
    }
}

/// What a part does not tell this time it told before.
fn not_told_again(now: &mut SliceLook, before: &SliceLook) {
    if now.memory_total_bytes == 0 {
        now.memory_total_bytes = before.memory_total_bytes;
    }
    if now.profile.is_empty() {
        (now.name, now.profile) = (before.name.clone(), before.profile.clone());
    }
}

/// What does not change from look to look.
pub fn without_use(cut: Cut) -> Cut {
    Cut { slices: cut.slices.into_iter().map(without_its_use).collect() }
}

fn without_its_use(slice: SliceLook) -> SliceLook {
    SliceLook { memory_used_bytes: None, pids: Vec::new(), ..slice }
}

fn index(gpu: u32, slice: u32) -> u32 {
    (gpu + 1).saturating_mul(INDICES_PER_GPU).saturating_add(slice)
}

/// The part with this uuid.
pub fn slice<'a>(look: &'a GpuLook, uuid: &str) -> Option<&'a SliceLook> {
    look.cut.as_ref()?.slices.iter().find(|slice| slice.uuid == uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(uuids: &[&str]) -> GpuLook {
        let slice = |uuid: &&str| SliceLook {
            uuid: (*uuid).to_owned(),
            profile: "1g.10gb".to_owned(),
            memory_total_bytes: 9,
            memory_used_bytes: Some(1),
            ..SliceLook::default()
        };
        let cut = Some(Cut { slices: uuids.iter().map(slice).collect() });
        GpuLook { cut, ..GpuLook::default() }
    }

    /// The parts after two and these looks, each with how often it was missing; `None` if the
    /// GPU is whole.
    fn after(looks: &[(GpuLook, u32)]) -> Option<Vec<(String, Option<u32>)>> {
        let mut known = look(&["MIG-a", "MIG-b"]);
        for (next, due_looks) in looks {
            let mut next = next.clone();
            go_on(&mut next, &known, *due_looks, 3);
            known = next;
        }
        let slices = known.cut?.slices.into_iter();
        Some(slices.map(|slice| (slice.uuid, slice.absent_looks)).collect())
    }

    #[test]
    fn a_part_that_is_missing_for_long_is_gone() {
        let of = |uuid: &str, absent| (uuid.to_owned(), absent);
        let due = |look: &GpuLook| (look.clone(), 1);
        let (both, one) = (look(&["MIG-a", "MIG-b"]), due(&look(&["MIG-a"])));
        let (here, gone) = (of("MIG-a", None), |looks| of("MIG-b", Some(looks)));
        assert_eq!(after(&[one.clone(), one.clone()]), Some(vec![here.clone(), gone(2)]));
        assert_eq!(after(&[one.clone(), one.clone(), one.clone()]), Some(vec![here.clone()]));
        assert_eq!(after(&[one.clone(), due(&both)]), Some(vec![here.clone(), of("MIG-b", None)]));
        // However often somebody asks in between.
        let extra = (one.0.clone(), 0);
        assert_eq!(after(&vec![extra.clone(); 20]), Some(vec![here.clone(), gone(0)]));
        let mixed = [extra.clone(), one.clone(), extra.clone(), one, extra];
        assert_eq!(after(&mixed), Some(vec![here, gone(2)]));
    }

    #[test]
    fn a_gpu_is_whole_again_no_sooner_than_its_parts_are_gone() {
        let due = |look: &GpuLook| (look.clone(), 1);
        let whole = due(&GpuLook::default());
        let missing = |looks| {
            let of = |uuid: &str| (uuid.to_owned(), Some(looks));
            Some(vec![of("MIG-a"), of("MIG-b")])
        };
        assert_eq!(after(std::slice::from_ref(&whole)), missing(1));
        assert_eq!(after(&vec![whole.clone(); 2]), missing(2));
        assert_eq!(after(&vec![whole.clone(); 3]), None);
        // It does not say whether it is.
        let untold = due(&GpuLook { cut_untold: true, ..GpuLook::default() });
        let both = ["MIG-a", "MIG-b"].map(|uuid| (uuid.to_owned(), None)).to_vec();
        assert_eq!(after(&vec![untold.clone(); 9]), Some(both));
        assert_eq!(after(&[vec![whole; 3], vec![untold.clone(); 9]].concat()), None);
        let mut never = untold.0.clone();
        go_on(&mut never, &untold.0, 1, 3);
        assert!(never.cut_untold && never.cut.is_none());
    }

    #[test]
    fn a_part_that_shares_its_memory_or_does_not_say_what_it_is_is_not_offered() {
        for (profile, expected) in [
            ("1g.10gb", 1),
            ("1g.10gb+me", 1),
            ("7g.80gb", 1),
            ("1c.3g.40gb", 0),
            ("2c.7g.80gb", 0),
            ("", 0),
        ] {
            let mut cut = look(&["MIG-a"]).cut.unwrap();
            cut.slices[0].profile = profile.to_owned();
            assert_eq!(offered(&cut).count(), expected, "{profile}");
        }
        // It said so before.
        let (before, mut now) = (look(&["MIG-a"]), look(&["MIG-a"]));
        let slice = &mut now.cut.as_mut().unwrap().slices[0];
        (slice.profile, slice.memory_total_bytes) = (String::new(), 0);
        go_on(&mut now, &before, 1, 3);
        assert_eq!(now, before);
    }

    #[test]
    fn a_gpu_is_itself_or_its_parts() {
        let whole = Device {
            uuid: "GPU-a".to_owned(),
            index: 1,
            model: "H100".to_owned(),
            memory: MemoryBytes(80 << 30),
            health: DeviceHealth::Suspect,
            reason: "XID 74".to_owned(),
            numa_node: None,
            ways: Vec::new(),
            slice: None,
        };
        let part = |number, memory_total_bytes| SliceLook {
            number,
            uuid: format!("MIG-{number}"),
            profile: "1g.10gb".to_owned(),
            memory_total_bytes,
            memory_used_bytes: Some(7),
            ..SliceLook::default()
        };
        let mut look = GpuLook { index: 1, uuid: "GPU-a".to_owned(), ..GpuLook::default() };
        assert_eq!(devices(whole.clone(), &look), std::slice::from_ref(&whole));
        look.cut = Some(Cut::default());
        assert_eq!(devices(whole.clone(), &look), []);
        look.cut = Some(Cut { slices: vec![part(0, 0), part(2, 9)] });
        let parts = devices(whole, &look);
        assert_eq!(parts.len(), 1);
        let (uuid, index, model) = (parts[0].uuid.as_str(), parts[0].index, &parts[0].model);
        assert_eq!((uuid, index, model.as_str()), ("MIG-2", 202, "H100"));
        assert_eq!((parts[0].health, parts[0].memory.0), (DeviceHealth::Suspect, 9));
        assert_eq!(parts[0].slice.as_ref().unwrap().parent, "GPU-a");

        let told = DeviceSample {
            temperature_celsius: Some(61),
            utilization_percent: Some(3),
            ..DeviceSample::default()
        };
        let shown = |told| samples(told, &look).remove(0);
        assert_eq!(shown(told).memory_used_bytes, Some(7));
        assert_eq!(shown(DeviceSample::default()).memory_used_bytes, None, "it does not answer");
        assert_eq!(slice(&look, "MIG-2").unwrap().number, 2);
    }
}
