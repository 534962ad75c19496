//! How GPUs reach each other: over PCIe, and over NVLinks, each by itself.

use std::ffi::{c_uint, c_ulong};

use crate::memory::{put, put_each};
use crate::script::{Gpu, Script};
use crate::{Device, PciInfo, Return, answer, answer_of, index_of, pci_info, present, supported};

/// As in `nvml.h`; a GPU has no more.
const NVLINKS_MAX: c_uint = 18;
const ON: c_uint = 1;
const OFF: c_uint = 0;
const P2P_OVER_NVLINK: c_uint = 2;
const P2P_WORKS: c_uint = 0;
const P2P_DOES_NOT: c_uint = 5;
/// Where the switches are on the bus.
const SWITCH_BUS: &str = "00000000:F0:00.0";

/// What is said of two GPUs, of whichever of them it is said.
fn of_both<T: Copy>(
    script: &Script,
    (one, other): (u32, u32),
    said: impl Fn(&Gpu, u32) -> Option<T>,
) -> Result<Option<T>, Return> {
    let (first, second) = (present(script, one)?, present(script, other)?);
    Ok(said(first, other).or_else(|| said(second, one)))
}

/// Where each NVLink of a GPU leads to, the first with number 0: to another GPU, or to a
/// switch.
fn nvlinks(script: &Script, index: u32) -> Result<Vec<Option<u32>>, Return> {
    let mut links = Vec::new();
    for other in script.gpus.keys().copied().filter(|other| *other != index) {
        let said = |gpu: &Gpu, other| gpu.nvlinks.get(&other).copied();
        // The other end may be lost.
        let count = of_both(script, (index, other), said).unwrap_or_default().unwrap_or(0);
        links.extend((0..count.min(NVLINKS_MAX)).map(|_| Some(other)));
    }
    let switched = present(script, index)?.switch_nvlinks.min(NVLINKS_MAX);
    links.extend((0..switched).map(|_| None));
    links.truncate(NVLINKS_MAX as usize);
    Ok(links)
}

/// As [`nvlinks`], one of them; `None` if it leads nowhere.
fn nvlink(script: &Script, index: u32, link: c_uint) -> Result<Option<Option<u32>>, Return> {
    if link >= NVLINKS_MAX {
        return Err(Return::InvalidArgument);
    }
    let links = nvlinks(script, index)?;
    if links.is_empty() {
        return Err(Return::NotSupported);
    }
    Ok(links.get(link as usize).copied())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    one: Device,
    other: Device,
    level: *mut c_uint,
) -> Return {
    answer("nvmlDeviceGetTopologyCommonAncestor", |script| {
        let pair = (index_of(one)?, index_of(other)?);
        let said = |gpu: &Gpu, other| gpu.ancestors.get(&other).copied();
        let ancestor = of_both(script, pair, said)?.ok_or(Return::NotSupported)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(level, ancestor as c_uint) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    one: Device,
    other: Device,
    way: c_uint,
    status: *mut c_uint,
) -> Return {
    answer("nvmlDeviceGetP2PStatus", |script| {
        if way != P2P_OVER_NVLINK {
            return Err(Return::InvalidArgument);
        }
        let (one, other) = (index_of(one)?, index_of(other)?);
        let straight = nvlinks(script, one)?.contains(&Some(other));
        let switched = |index| Ok(present(script, index)?.switch_nvlinks > 0);
        let works = straight || (switched(one)? && switched(other)?);
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(status, if works { P2P_WORKS } else { P2P_DOES_NOT }) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: Device,
    link: c_uint,
    is_active: *mut c_uint,
) -> Return {
    answer("nvmlDeviceGetNvLinkState", |script| {
        let found = nvlink(script, index_of(device)?, link)?;
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(is_active, if found.is_some() { ON } else { OFF }) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: Device,
    link: c_uint,
    pci: *mut PciInfo,
) -> Return {
    answer("nvmlDeviceGetNvLinkRemotePciInfo_v2", |script| {
        let end = nvlink(script, index_of(device)?, link)?.ok_or(Return::NotSupported)?;
        let bus = match end {
            Some(other) => supported(&present(script, other)?.bus)?,
            None => SWITCH_BUS.to_owned(),
        };
        // SAFETY: NVML's callers pass where to write.
        unsafe { put(pci, pci_info(&bus)?) }
    })
}

/// The nodes of the host's memory that are nearest, as bits.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: Device,
    length: c_uint,
    nodes: *mut c_ulong,
    _scope: c_uint,
) -> Return {
    answer_of("nvmlDeviceGetMemoryAffinity", device, |gpu| {
        let node = supported(&gpu.numa)?;
        if node / c_ulong::BITS >= length {
            return Err(Return::InsufficientSize);
        }
        let word = |position| match position == node / c_ulong::BITS {
            true => 1 << (node % c_ulong::BITS),
            false => 0,
        };
        // SAFETY: NVML's callers pass room for as many words as they say.
        unsafe { put_each(nodes, (0..length).map(word)) }
    })
}
