//! NVML, as the prober asks it. Runs in the prober only: every call here may hang.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use berth_proto::v1::MemoryErrors;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::Library;
use super::said::{Cut, GpuLook, GpuProcess, Look, SliceLook, SlowedBy};

/// The library, loaded and initialised.
///
/// # Errors
/// A sentence that says why there is none.
pub fn open(library: &Library) -> Result<Nvml, String> {
    let opened = match library {
        Library::Usual => Nvml::init(),
        Library::At(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        Library::Simulated(_) => {
            let file = in_memory(berth_nvml_sim::library());
            let file = file.map_err(|error| format!("make the simulated library: {error}"))?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            // Once loaded it needs its file no more.
            Nvml::builder().lib_path(OsStr::new(&path)).init()
        }
        Library::Listed(_) => return Err("a command lists the devices".to_owned()),
    };
    opened.map_err(|error| in_words(&error))
}

/// A file without a name, so that it can be loaded whatever disks are mounted with.
pub(super) fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("libnvml_sim.so", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    Ok(file.into())
}

/// What an answer of the library means to whoever runs the host.
pub fn in_words(error: &NvmlError) -> String {
    if let NvmlError::LibloadingError(error) = error {
        return format!("NVIDIA's library is not here: {error}");
    }
    if matches!(error, NvmlError::DriverNotLoaded) {
        return "no NVIDIA driver is loaded".to_owned();
    }
    if matches!(error, NvmlError::LibRmVersionMismatch) {
        return "the NVIDIA driver that runs and its library are of two versions; load the new \
                driver, or restart the host"
            .to_owned();
    }
    error.to_string()
}

/// The uuids of the GPUs that answered, by their index: one that does not answer no
/// longer says who it is.
pub type Known = BTreeMap<u32, String>;

/// Looks at every GPU.
///
/// # Errors
/// The library cannot be asked at all any more.
pub fn look(nvml: &Nvml, known: &mut Known) -> Result<Look, NvmlError> {
    let count = nvml.device_count()?;
    let mut look =
        Look { driver: nvml.sys_driver_version().unwrap_or_default(), ..Look::default() };
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|device| look_once(index, &device, known)) {
            Ok(gpu) => {
                known.insert(index, gpu.uuid.clone());
                look.gpus.push(gpu);
            }
            Err(error) if is_of_the_library(&error) => return Err(error),
            Err(error) => match (known.get(&index), error) {
                (None, _) => look.nameless += 1,
                (Some(uuid), NvmlError::GpuLost) => look.lost.push(uuid.clone()),
                (Some(uuid), NvmlError::ResetRequired) => look.need_reset.push(uuid.clone()),
                (Some(uuid), _) => look.unanswering.push(uuid.clone()),
            },
        }
    }
    // Indices move when a GPU goes: who answers elsewhere is not lost.
    let answering: BTreeSet<&str> = look.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    look.lost.retain(|uuid| !answering.contains(uuid.as_str()));
    look.unanswering.retain(|uuid| !answering.contains(uuid.as_str()));
    look.need_reset.retain(|uuid| !answering.contains(uuid.as_str()));
    Ok(look)
}

/// Whether an error says nothing of the GPU that was asked.
fn is_of_the_library(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch
    )
}

/// One that only says that it has to be reset may still say who it is.
///
/// # Errors
/// As those of [`look_at`].
fn look_once(index: u32, device: &Device<'_>, known: &mut Known) -> Result<GpuLook, NvmlError> {
    let looked = look_at(index, device);
    if matches!(looked, Err(NvmlError::ResetRequired))
        && let Ok(uuid) = device.uuid()
    {
        known.insert(index, uuid);
    }
    looked
}

/// # Errors
/// It cannot be reached, does not say who it is, or has to be reset.
fn look_at(index: u32, device: &Device<'_>) -> Result<GpuLook, NvmlError> {
    let memory = told(device.memory_info())?;
    let processes = told(device.running_compute_processes())?;
    let [recovery, memory_errors @ ..] = fields(device, FIELDS)?;
    let (cut, cut_untold) = match cut(device) {
        Ok(cut) => (cut, false),
        Err(error) if is_of_the_gpu(&error) || is_of_the_library(&error) => return Err(error),
        Err(_) => (None, true),
    };
    Ok(GpuLook {
        index,
        uuid: device.uuid()?,
        name: told(device.name())?.unwrap_or_default(),
        bus: told(device.pci_info())?.map(|pci| pci.bus_id).unwrap_or_default(),
        minor: told(device.minor_number())?,
        memory_total_bytes: memory.as_ref().map_or(0, |memory| memory.total),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        utilization_percent: told(device.utilization_rates())?.map(|rates| rates.gpu),
        temperature_celsius: told(device.temperature(TemperatureSensor::Gpu))?,
        power_milliwatts: told(device.power_usage())?,
        clock_mhz: told(device.clock_info(Clock::SM))?,
        tells_processes: processes.is_some(),
        processes: processes
            .unwrap_or_default()
            .into_iter()
            .map(|process| GpuProcess {
                pid: process.pid,
                memory_bytes: match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                },
            })
            .collect(),
        is_lost: false,
        recovery: recovery.and_then(|action| u32::try_from(action).ok()),
        memory_errors: Some(in_order(memory_errors)),
        slowed_by: told(device.current_throttle_reasons())?
            .map_or(SlowedBy::Nothing, slowed_by)
            .into(),
        cut,
        cut_untold,
        ..GpuLook::default()
    })
}

/// Its parts, if it is cut up.
///
/// # Errors
/// It does not say now whether it is, or into what: nobody may take it for a whole one then.
fn cut(device: &Device<'_>) -> Result<Option<Cut>, NvmlError> {
    match had(device.mig_mode())? {
        Some(mode) if mode.current == MIG_ON => Ok(Some(Cut { slices: slices(device)? })),
        Some(_) | None => Ok(None),
    }
}

/// The parts of a GPU that is cut up. NVML gives them numbers with gaps. One that does not say
/// who it is, is just being made or taken away.
///
/// # Errors
/// As those of [`cut`].
fn slices(parent: &Device<'_>) -> Result<Vec<SliceLook>, NvmlError> {
    let most = had(parent.mig_device_count())?.unwrap_or(0);
    let mut found = Vec::new();
    for number in 0..most.min(SLICES_MAX) {
        let Some(slice) = had(parent.mig_device_by_index(number))? else { continue };
        let Some(uuid) = told(slice.uuid())? else { continue };
        let memory = told(slice.memory_info())?;
        let name = told(slice.name())?.unwrap_or_default();
        let profile = name.split_once("MIG ").map_or("", |(_, profile)| profile).to_owned();
        let processes = told(slice.running_compute_processes())?.unwrap_or_default();
        found.push(SliceLook {
            number,
            uuid,
            name,
            profile,
            memory_total_bytes: memory.as_ref().map_or(0, |memory| memory.total),
            memory_used_bytes: memory.map(|memory| memory.used),
            pids: processes.into_iter().map(|process| process.pid).collect(),
            absent_looks: None,
        });
    }
    Ok(found)
}

/// `NVML_DEVICE_MIG_ENABLE`.
const MIG_ON: u32 = 1;
/// The most parts of one GPU that are looked at; those of today have seven.
const SLICES_MAX: u32 = 16;

/// What is asked for with one call, in the order in which [`in_order`] takes it.
const FIELDS: [u32; 9] = [
    field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    field_id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
    field_id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    field_id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
    field_id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
    field_id::NVML_FI_DEV_REMAPPED_COR,
    field_id::NVML_FI_DEV_REMAPPED_UNC,
    field_id::NVML_FI_DEV_REMAPPED_PENDING,
    field_id::NVML_FI_DEV_REMAPPED_FAILURE,
];

/// What follows the first of [`FIELDS`].
fn in_order(told: [Option<u64>; FIELDS.len() - 1]) -> MemoryErrors {
    let [sbe_volatile, dbe_volatile, sbe_life, dbe_life, corrected, uncorrected, pending, failed] =
        told;
    MemoryErrors {
        corrected_volatile: sbe_volatile,
        uncorrected_volatile: dbe_volatile,
        corrected_aggregate: sbe_life,
        uncorrected_aggregate: dbe_life,
        rows_remapped_corrected: corrected,
        rows_remapped_uncorrected: uncorrected,
        remap_pending: pending.map(|count| count > 0),
        remap_failed: failed.map(|count| count > 0),
    }
}

/// What of the reasons is none of the driver's own choice.
fn slowed_by(reasons: ThrottleReasons) -> SlowedBy {
    let hot = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    if reasons.intersects(hot) {
        SlowedBy::Heat
    } else if reasons.contains(ThrottleReasons::HW_SLOWDOWN) {
        SlowedBy::Power
    } else {
        SlowedBy::Nothing
    }
}

/// Values that the library hands out by number; `None` where it has none.
///
/// # Errors
/// It cannot be reached.
fn fields<const COUNT: usize>(
    device: &Device<'_>,
    numbers: [u32; COUNT],
) -> Result<[Option<u64>; COUNT], NvmlError> {
    let mut found = [None; COUNT];
    let asked = told(device.field_values_for(&numbers.map(FieldId)))?.unwrap_or_default();
    for (found, value) in found.iter_mut().zip(asked) {
        let value = value.and_then(|sample| sample.value).ok();
        *found = value.and_then(|value| match value {
            SampleValue::U32(value) => Some(u64::from(value)),
            SampleValue::U64(value) => Some(value),
            SampleValue::I64(value) => u64::try_from(value).ok(),
            SampleValue::F64(_) => None,
        });
    }
    Ok(found)
}

/// What a GPU does not tell is absent; one that is lost, or has to be reset, and a library that
/// cannot be asked, are errors.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_of_the_gpu(&error) || is_of_the_library(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// What a GPU says that it does not have, or that an older library cannot ask for, is absent;
/// where nobody says so that is an error.
pub fn had<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(
            NvmlError::NotSupported
            | NvmlError::InvalidArg
            | NvmlError::NotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says what has become of the GPU that was asked.
fn is_of_the_gpu(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired)
}

/// Listens for the errors of one GPU; `None` if it tells of none. Each has a set of
/// its own: once it is lost, nobody can ask whose error it was.
///
/// # Errors
/// It cannot be asked now.
pub fn listen(nvml: &Nvml, index: u32) -> Result<Option<EventSet<'_>>, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let wanted = EventTypes::CRITICAL_XID_ERROR;
    if !told(device.supported_event_types())?.is_some_and(|types| types.contains(wanted)) {
        return Ok(None);
    }
    let set = nvml.create_event_set()?;
    device.register_events(wanted, set).map(Some).map_err(|failed| failed.error)
}

/// The code of the next error, as in NVIDIA's catalogue; `None` if there was none in
/// time.
///
/// # Errors
/// The set cannot be asked any more.
pub fn next_xid(set: &EventSet<'_>, timeout_ms: u32) -> Result<Option<u64>, NvmlError> {
    match set.wait(timeout_ms) {
        Ok(event) => Ok(match event.event_data {
            Some(XidError::Value(xid)) => Some(xid),
            // Not one of its catalogue, and yet an error.
            Some(XidError::Unknown) => Some(0),
            None => None,
        }),
        Err(NvmlError::Timeout) => Ok(None),
        Err(error) => Err(error),
    }
}
