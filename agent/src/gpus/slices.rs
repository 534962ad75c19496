//! GPUs that are cut up (MIG), as devices of the node: each part is one, and the whole is none.
//! What befalls the whole befalls its parts.

use berth_model::{Device, DeviceHealth, DeviceSlice, MemoryBytes};
use berth_proto::v1::DeviceSample;

use super::said::{GpuLook, SliceLook};

/// Parts are counted after all whole GPUs, those of each GPU in a hundred of their own: the
/// third part of GPU 1 is 202.
const INDICES_PER_GPU: u32 = 100;

/// The devices that a GPU is, of what it is as a whole.
pub fn devices(whole: Device, look: &GpuLook) -> Vec<Device> {
    let Some(cut) = &look.cut else { return vec![whole] };
    let device = |slice: &SliceLook| {
        let (mut health, mut reason) = (whole.health, whole.reason.clone());
        if slice.absent_looks > 0 && health < DeviceHealth::Cordoned {
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
    // One that never said how much memory it has cannot be given to anybody.
    cut.slices.iter().filter(|slice| slice.memory_total_bytes > 0).map(device).collect()
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
    cut.slices.iter().map(sample).collect()
}

/// Has a look go on with the parts of the one before it that it misses for the first times: a
/// call that fails once takes nobody's work away.
pub fn go_on(look: &mut GpuLook, before: &GpuLook, absent_looks_max: u32) {
    let (Some(now), Some(before)) = (&mut look.cut, &before.cut) else { return };
    for slice in &before.slices {
        let absent_looks = slice.absent_looks + 1;
        let is_here = now.slices.iter().any(|here| here.uuid == slice.uuid);
        if !is_here && absent_looks < absent_looks_max {
            let pids = Vec::new();
            let gone = SliceLook { absent_looks, memory_used_bytes: None, pids, ..slice.clone() };
            now.slices.push(gone);
        }
    }
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
    use super::super::said::Cut;
    use super::*;

    #[test]
    fn a_part_that_is_missing_for_long_is_gone() {
        let look = |uuids: &[&str]| {
            let slice =
                |uuid: &&str| SliceLook { uuid: (*uuid).to_owned(), ..SliceLook::default() };
            let cut = Some(Cut { slices: uuids.iter().map(slice).collect() });
            GpuLook { cut, ..GpuLook::default() }
        };
        let after = |looks: &[GpuLook]| -> Vec<(String, u32)> {
            let mut known = look(&["MIG-a", "MIG-b"]);
            for next in looks {
                let mut next = next.clone();
                go_on(&mut next, &known, 3);
                known = next;
            }
            let slices = known.cut.unwrap_or_default().slices.into_iter();
            slices.map(|slice| (slice.uuid, slice.absent_looks)).collect()
        };
        let of = |uuid: &str, absent| (uuid.to_owned(), absent);
        let (both, one) = (look(&["MIG-a", "MIG-b"]), look(&["MIG-a"]));
        assert_eq!(after(&[one.clone(), one.clone()]), [of("MIG-a", 0), of("MIG-b", 2)]);
        assert_eq!(after(&[one.clone(), one.clone(), one.clone()]), [of("MIG-a", 0)]);
        assert_eq!(after(&[one, both]), [of("MIG-a", 0), of("MIG-b", 0)]);
        assert_eq!(after(&[GpuLook::default()]), [], "it is whole again");
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
        let shown = |told| samples(told, &look).remove(1);
        assert_eq!(shown(told).memory_used_bytes, Some(7));
        assert_eq!(shown(DeviceSample::default()).memory_used_bytes, None, "it does not answer");
        assert_eq!(slice(&look, "MIG-2").unwrap().number, 2);
    }
}
