//! GPUs that are cut up (MIG). A part has a handle of its own, which holds the GPU's number and
//! its own, each and one; a handle without the latter is a whole GPU's.

use std::ffi::c_uint;

use crate::memory::put;
use crate::script::{Gpu, Mig};
use crate::{Device, Return, answer, answer_of, index_of, present};

/// Of the number of a GPU in a handle; the rest is the part's.
const GPU_BITS: u32 = 16;
/// As with every GPU that can be cut up today.
const SLICES_MAX: c_uint = 7;

/// The numbers in a handle: the GPU's, and its part's, which is 0 for the whole.
pub(crate) fn numbers_of(device: Device) -> (usize, usize) {
    let address = device.addr();
    (address & ((1 << GPU_BITS) - 1), address >> GPU_BITS)
}

/// The part of a GPU that a handle means, as a GPU that tells little; `None` if it means the
/// whole. One that is there no more is not found.
pub(crate) fn slice_of(gpu: &Gpu, device: Device) -> Result<Option<Gpu>, Return> {
    let (_, number) = numbers_of(device);
    let Some(number) = number.checked_sub(1) else { return Ok(None) };
    let number = u32::try_from(number).map_err(|_| Return::InvalidArgument)?;
    let is_on = gpu.mig == Some(Mig::On);
    let slice = gpu.slices.get(&number).filter(|_| is_on).ok_or(Return::NotFound)?;
    let name = gpu.name.as_ref().map(|name| format!("{name} MIG {}", slice.profile));
    Ok(Some(Gpu {
        uuid: Some(slice.uuid.clone()),
        name,
        memory_total_bytes: Some(slice.memory_bytes),
        memory_used_bytes: gpu.slices_used_bytes.get(&number).copied(),
        ..Gpu::default()
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Device,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Return {
    answer_of("nvmlDeviceGetMigMode", device, |gpu| {
        let mode = gpu.mig.ok_or(Return::NotSupported)? as c_uint;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(current, mode) }?;
        // SAFETY: as before.
        unsafe { put(pending, mode) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Device, count: *mut c_uint) -> Return {
    answer_of("nvmlDeviceGetMaxMigDeviceCount", device, |gpu| {
        gpu.mig.ok_or(Return::NotSupported)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(count, SLICES_MAX) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    index: c_uint,
    slice: *mut Device,
) -> Return {
    answer("nvmlDeviceGetMigDeviceHandleByIndex", |script| {
        let gpu = present(script, index_of(device)?)?;
        let (gpu_number, _) = numbers_of(device);
        let handle = gpu_number | ((index as usize + 1) << GPU_BITS);
        let handle = std::ptr::without_provenance_mut(handle);
        slice_of(gpu, handle)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(slice, handle) }
    })
}
