//! NVML's C interface, and a little of CUDA's, over a script of simulated GPUs, as a shared library.
//!
//! The names, the layouts and the numbers are those of NVIDIA's `nvml.h` (interface
//! of CUDA 12). Only what is here can be called; a caller that looks for another
//! symbol finds none, as in an older library.

#![deny(unsafe_op_in_unsafe_fn)]
#![expect(unsafe_code, reason = "the callers are C, and pass pointers to be written through")]

mod cuda;
mod fields;
mod memory;
mod mig;
#[path = "../src/script.rs"]
mod script;
mod state;
mod topology;

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::time::{Duration, Instant};

use memory::{put, put_each, put_text, read, text_at};
use script::{Gpu, Init, Script};
use state::{State, script};

/// What every function returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Return {
    Success = 0,
    Uninitialized = 1,
    InvalidArgument = 2,
    NotSupported = 3,
    NotFound = 6,
    InsufficientSize = 7,
    DriverNotLoaded = 9,
    Timeout = 10,
    GpuIsLost = 15,
    ResetRequired = 16,
    LibRmVersionMismatch = 18,
    Unknown = 999,
}

type Done = Result<(), Return>;

/// A GPU, whose handle is its index and one: no handle is null, and one stays the same
/// when the script changes.
type Device = *mut c_void;
type EventSet = *mut c_void;

#[repr(C)]
struct PciInfo {
    bus_id_legacy: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [u8; 32],
}

#[repr(C)]
struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
struct ProcessInfo {
    pid: c_uint,
    used_gpu_memory: c_ulonglong,
    gpu_instance_id: c_uint,
    compute_instance_id: c_uint,
}

#[repr(C)]
struct EventData {
    device: Device,
    event_type: c_ulonglong,
    event_data: c_ulonglong,
    gpu_instance_id: c_uint,
    compute_instance_id: c_uint,
}

const TEMPERATURE_OF_THE_GPU: c_uint = 0;
const CLOCK_OF_THE_MULTIPROCESSORS: c_uint = 1;
const EVENT_XID: c_ulonglong = 8;
/// Of a GPU that is not partitioned.
const NO_INSTANCE: c_uint = c_uint::MAX;
/// How often a wait looks at the script.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a function does once the library is initialised and the script does not have
/// it hang.
fn answer(name: &str, act: impl FnOnce(&Script) -> Done) -> Return {
    let script = hang(name);
    match script.init {
        _ if !State::is_initialised() => Return::Uninitialized,
        Init::Works if script.failing.contains(name) => Return::Unknown,
        Init::Works => ended(act(&script)),
        Init::NoDriver | Init::Mismatch => beginning(script.init),
    }
}

/// How initialising ends. A driver that is taken away under a running program answers
/// like that as well.
fn beginning(init: Init) -> Return {
    match init {
        Init::Works => Return::Success,
        Init::NoDriver => Return::DriverNotLoaded,
        Init::Mismatch => Return::LibRmVersionMismatch,
    }
}

/// Waits as long as the script says that the function hangs.
fn hang(name: &str) -> std::sync::Arc<Script> {
    loop {
        let script = script();
        if !script.hanging.contains(name) {
            return script;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn ended(done: Done) -> Return {
    done.err().unwrap_or(Return::Success)
}

/// As [`answer`], of one GPU, or of a part of one.
fn answer_of(name: &str, device: Device, act: impl FnOnce(&Gpu) -> Done) -> Return {
    answer(name, |script| {
        let gpu = present(script, index_of(device)?)?;
        match mig::slice_of(gpu, device)? {
            _ if gpu.needs_reset => Err(Return::ResetRequired),
            Some(slice) => act(&slice),
            None => act(gpu),
        }
    })
}

fn index_of(device: Device) -> Result<u32, Return> {
    let (gpu, _) = mig::numbers_of(device);
    let index = gpu.checked_sub(1).ok_or(Return::InvalidArgument)?;
    u32::try_from(index).map_err(|_| Return::InvalidArgument)
}

fn handle_of(index: u32) -> Device {
    std::ptr::without_provenance_mut(index as usize + 1)
}

fn present(script: &Script, index: u32) -> Result<&Gpu, Return> {
    match script.gpus.get(&index) {
        None => Err(Return::InvalidArgument),
        Some(gpu) if gpu.is_lost => Err(Return::GpuIsLost),
        Some(gpu) => Ok(gpu),
    }
}

fn supported<T: Clone>(value: &Option<T>) -> Result<T, Return> {
    value.clone().ok_or(Return::NotSupported)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Return {
    let begun = beginning(hang("nvmlInit_v2").init);
    if begun == Return::Success {
        State::initialise();
    }
    begun
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Return {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Return {
    if State::shut_down() { Return::Success } else { Return::Uninitialized }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    let text = match result {
        0 => c"The operation was successful",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        18 => c"Driver/library version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint) -> Return {
    answer("nvmlSystemGetDriverVersion", |script| {
        // SAFETY: NVML's callers pass a buffer and how long it is.
        unsafe { put_text(text, length, &supported(&script.driver)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    answer("nvmlDeviceGetCount_v2", |script| {
        let found = c_uint::try_from(script.gpus.len()).map_err(|_| Return::Unknown)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(count, found) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> Return {
    answer("nvmlDeviceGetHandleByIndex_v2", |script| {
        present(script, index)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(device, handle_of(index)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> Return {
    answer("nvmlDeviceGetHandleByUUID", |script| {
        // SAFETY: NVML's callers pass a text with its end.
        let asked = unsafe { text_at(uuid) }?;
        let mut gpus = script.gpus.iter();
        let found = gpus.find(|(_, gpu)| gpu.uuid.as_deref() == Some(&asked));
        let (index, _) = found.ok_or(Return::NotFound)?;
        present(script, *index)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(device, handle_of(*index)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, index: *mut c_uint) -> Return {
    answer_of("nvmlDeviceGetIndex", device, |_| {
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(index, index_of(device)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: Device,
    text: *mut c_char,
    length: c_uint,
) -> Return {
    answer("nvmlDeviceGetUUID", |script| {
        let gpu = present(script, index_of(device)?)?;
        let uuid = mig::slice_of(gpu, device)?.map_or_else(|| gpu.uuid.clone(), |part| part.uuid);
        // SAFETY: NVML's callers pass a buffer and how long it is.
        unsafe { put_text(text, length, &supported(&uuid)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: Device,
    text: *mut c_char,
    length: c_uint,
) -> Return {
    answer_of("nvmlDeviceGetName", device, |gpu| {
        // SAFETY: NVML's callers pass a buffer and how long it is.
        unsafe { put_text(text, length, &supported(&gpu.name)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: Device, minor: *mut c_uint) -> Return {
    answer_of("nvmlDeviceGetMinorNumber", device, |gpu| {
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(minor, supported(&gpu.minor)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, pci: *mut PciInfo) -> Return {
    answer_of("nvmlDeviceGetPciInfo_v3", device, |gpu| {
        let info = pci_info(&supported(&gpu.bus)?)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(pci, info) }
    })
}

/// A place on the bus, such as `00000000:1B:00.0`.
fn pci_info(bus: &str) -> Result<PciInfo, Return> {
    let mut parts = bus.split([':', '.']).map(|part| c_uint::from_str_radix(part, 16));
    let mut part = || parts.next().and_then(Result::ok).ok_or(Return::Unknown);
    let mut info = PciInfo {
        bus_id_legacy: [0; 16],
        domain: part()?,
        bus: part()?,
        device: part()?,
        pci_device_id: 0,
        pci_subsystem_id: 0,
        bus_id: [0; 32],
    };
    // The older form has a domain of four digits.
    let legacy = bus.get(bus.len().saturating_sub(12)..).unwrap_or_default();
    for (to, from) in info.bus_id_legacy.iter_mut().zip(legacy.bytes()) {
        *to = from;
    }
    for (to, from) in info.bus_id[..31].iter_mut().zip(bus.bytes()) {
        *to = from;
    }
    Ok(info)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, memory: *mut MemoryV2) -> Return {
    answer_of("nvmlDeviceGetMemoryInfo_v2", device, |gpu| {
        let total = supported(&gpu.memory_total_bytes)?;
        let used = gpu.memory_used_bytes.unwrap_or(0).min(total);
        // SAFETY: the caller says in the structure which of its versions it passes.
        let version = unsafe { read(&raw const (*memory).version) }?;
        let info = MemoryV2 { version, total, reserved: 0, free: total - used, used };
        // SAFETY: as before.
        unsafe { put(memory, info) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: Device,
    rates: *mut Utilization,
) -> Return {
    answer_of("nvmlDeviceGetUtilizationRates", device, |gpu| {
        let rate = supported(&gpu.utilization_percent)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(rates, Utilization { gpu: rate, memory: 0 }) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    sensor: c_uint,
    celsius: *mut c_uint,
) -> Return {
    answer_of("nvmlDeviceGetTemperature", device, |gpu| {
        if sensor != TEMPERATURE_OF_THE_GPU {
            return Err(Return::InvalidArgument);
        }
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(celsius, supported(&gpu.temperature_celsius)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: Device, milliwatts: *mut c_uint) -> Return {
    answer_of("nvmlDeviceGetPowerUsage", device, |gpu| {
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(milliwatts, supported(&gpu.power_milliwatts)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: Device,
    clock: c_uint,
    megahertz: *mut c_uint,
) -> Return {
    answer_of("nvmlDeviceGetClockInfo", device, |gpu| {
        if clock != CLOCK_OF_THE_MULTIPROCESSORS {
            return Err(Return::NotSupported);
        }
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(megahertz, supported(&gpu.clock_mhz)?) }
    })
}

/// Asked with no room at first, and then with as much as it was told to need.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> Return {
    answer_of("nvmlDeviceGetComputeRunningProcesses_v3", device, |gpu| {
        let found = c_uint::try_from(gpu.processes.len()).map_err(|_| Return::Unknown)?;
        // SAFETY: NVML's callers pass how many there is room for, and where.
        let room = unsafe { read(count) }?;
        // SAFETY: as before.
        unsafe { put(count, found) }?;
        if found > room {
            return Err(Return::InsufficientSize);
        }
        let each = gpu.processes.iter().map(|(pid, process)| ProcessInfo {
            pid: *pid,
            used_gpu_memory: process.memory_bytes,
            gpu_instance_id: NO_INSTANCE,
            compute_instance_id: NO_INSTANCE,
        });
        // SAFETY: there is room for that many.
        unsafe { put_each(infos, each) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: Device,
    types: *mut c_ulonglong,
) -> Return {
    answer_of("nvmlDeviceGetSupportedEventTypes", device, |_| {
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(types, EVENT_XID) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut EventSet) -> Return {
    answer("nvmlEventSetCreate", |_| {
        let made = std::ptr::without_provenance_mut(State::make_set());
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(set, made) }
    })
}

/// From now on; what has happened before is not told.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(
    device: Device,
    types: c_ulonglong,
    set: EventSet,
) -> Return {
    answer_of("nvmlDeviceRegisterEvents", device, |gpu| {
        if types & !EVENT_XID != 0 {
            return Err(Return::NotSupported);
        }
        let newest = gpu.xids.last().map_or(0, |xid| xid.number);
        State::register(set.addr(), index_of(device)?, newest).ok_or(Return::InvalidArgument)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: EventSet,
    data: *mut EventData,
    timeout_ms: c_uint,
) -> Return {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let mut next = None;
        let asked = answer("nvmlEventSetWait_v2", |script| {
            next = State::next_event(set.addr(), script).ok_or(Return::InvalidArgument)?;
            Ok(())
        });
        if asked != Return::Success {
            return asked;
        }
        if let Some((index, code)) = next {
            let event = EventData {
                device: handle_of(index),
                event_type: EVENT_XID,
                event_data: code,
                gpu_instance_id: NO_INSTANCE,
                compute_instance_id: NO_INSTANCE,
            };
            // SAFETY: NVML's callers pass where to write.
            return ended(unsafe { put(data, event) });
        }
        if Instant::now() >= deadline {
            return Return::Timeout;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: EventSet) -> Return {
    if State::free_set(set.addr()) { Return::Success } else { Return::InvalidArgument }
}

/// The version of CUDA that the driver would run: 12.8.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Return {
    answer("nvmlSystemGetCudaDriverVersion_v2", |_| {
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(version, 12_080) }
    })
}
