//! Values that NVML hands out by a number, many with one call, and reasons as bits.

use std::ffi::{c_int, c_longlong, c_uint, c_ulonglong};

use crate::memory::{put, read};
use crate::script::{Gpu, Remap, Slowdown};
use crate::{Device, Return, answer_of};

/// As in `nvml.h`; the value itself is a union of eight bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp: c_longlong,
    latency_us: c_longlong,
    value_type: c_uint,
    result: c_uint,
    value: u64,
}

/// Reasons for low clocks, as bits.
const POWER_LIMIT: c_ulonglong = 0x4;
const HARDWARE: c_ulonglong = 0x8;
const HARDWARE_HEAT: c_ulonglong = 0x40;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: Device,
    reasons: *mut c_ulonglong,
) -> Return {
    answer_of("nvmlDeviceGetCurrentClocksThrottleReasons", device, |gpu| {
        let bits = match gpu.slowdown.ok_or(Return::NotSupported)? {
            Slowdown::Nothing => 0,
            Slowdown::Heat => HARDWARE | HARDWARE_HEAT,
            Slowdown::Power => HARDWARE,
            Slowdown::Limit => POWER_LIMIT,
        };
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(reasons, bits) }
    })
}

const UNSIGNED_LONG_LONG: c_uint = 3;

const CORRECTED_VOLATILE: c_uint = 3;
const UNCORRECTED_VOLATILE: c_uint = 4;
const CORRECTED_AGGREGATE: c_uint = 5;
const UNCORRECTED_AGGREGATE: c_uint = 6;
const REMAPPED_CORRECTED: c_uint = 142;
const REMAPPED_UNCORRECTED: c_uint = 143;
const REMAPPED_PENDING: c_uint = 144;
const REMAPPED_FAILURE: c_uint = 145;
const RECOVERY_ACTION: c_uint = 230;

/// One that is not supported says so in its own result; the call works.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: Device,
    count: c_int,
    values: *mut FieldValue,
) -> Return {
    answer_of("nvmlDeviceGetFieldValues", device, |gpu| {
        let count = usize::try_from(count).map_err(|_| Return::InvalidArgument)?;
        for position in 0..count {
            // SAFETY: NVML's callers pass as many as they say.
            let place = unsafe { values.add(position) };
            // SAFETY: as before.
            let mut asked = unsafe { read(place) }?;
            let found = value_of(gpu, asked.field);
            asked.value_type = UNSIGNED_LONG_LONG;
            asked.value = found.unwrap_or(0);
            asked.result = found.map_or(Return::NotSupported, |_| Return::Success) as c_uint;
            // SAFETY: as before.
            unsafe { put(place, asked) }?;
        }
        Ok(())
    })
}

fn value_of(gpu: &Gpu, field: c_uint) -> Option<u64> {
    match field {
        CORRECTED_VOLATILE => gpu.ecc_corrected.map(|(volatile, _)| volatile),
        CORRECTED_AGGREGATE => gpu.ecc_corrected.map(|(_, aggregate)| aggregate),
        UNCORRECTED_VOLATILE => gpu.ecc_uncorrected.map(|(volatile, _)| volatile),
        UNCORRECTED_AGGREGATE => gpu.ecc_uncorrected.map(|(_, aggregate)| aggregate),
        REMAPPED_CORRECTED => gpu.rows_remapped.map(|(corrected, _)| corrected.into()),
        REMAPPED_UNCORRECTED => gpu.rows_remapped.map(|(_, uncorrected)| uncorrected.into()),
        REMAPPED_PENDING => gpu.remap.map(|remap| u64::from(remap == Remap::Pending)),
        REMAPPED_FAILURE => gpu.remap.map(|remap| u64::from(remap == Remap::Failed)),
        RECOVERY_ACTION => gpu.recovery.map(|recovery| recovery as u64),
        _ => None,
    }
}
