//! The few functions of CUDA's driver interface (libcuda) that a test of a GPU's memory calls, over
//! the same script. Nothing computes: what is allocated lies in the memory of the caller's own
//! process, so that there is only a little of it whatever the script says.
//!
//! The names, the layouts and the numbers are those of NVIDIA's `cuda.h` (interface of CUDA 12).

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::hang;
use crate::memory::{put, put_each, read};
use crate::script::{Gpu, Init, Script};

/// What every function returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum CuResult {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidContext = 201,
    SystemDriverMismatch = 803,
    Unknown = 999,
}

type CuDone = Result<(), CuResult>;
type CuDevice = c_int;
/// The number of the GPU and one.
type CuContext = *mut c_void;
type CuPointer = u64;

/// So much memory is free at most.
const FREE_BYTES_MAX: u64 = 8 << 20;
/// What is allocated begins at multiples of this, far from any address of the process.
const PIECE_BYTES: u64 = 1 << 40;
const UUID_BYTES: usize = 16;

/// The lock guards single calls, never a wait.
static CUDA: LazyLock<Mutex<Cuda>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Cuda {
    /// The GPUs that may be used, by NVML's number; none before there was an initialisation.
    visible: Option<Vec<u32>>,
    /// The GPU that is computed on.
    current: Option<u32>,
    /// By where they begin.
    pieces: BTreeMap<CuPointer, Vec<u8>>,
    pieces_made: u64,
}

impl Cuda {
    /// So many bytes from there on.
    fn bytes(&mut self, from: CuPointer, count: u64) -> Result<&mut [u8], CuResult> {
        let begin = from - from % PIECE_BYTES;
        let piece = self.pieces.get_mut(&begin).ok_or(CuResult::InvalidValue)?;
        let first = usize::try_from(from - begin).map_err(|_| CuResult::InvalidValue)?;
        let count = usize::try_from(count).map_err(|_| CuResult::InvalidValue)?;
        let end = first.checked_add(count).ok_or(CuResult::InvalidValue)?;
        piece.get_mut(first..end).ok_or(CuResult::InvalidValue)
    }
}

fn cuda() -> MutexGuard<'static, Cuda> {
    CUDA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a function does once the library is initialised and the script has it neither hang nor
/// fail.
fn answer(name: &str, act: impl FnOnce(&Script, &mut Cuda) -> CuDone) -> CuResult {
    let script = hang(name);
    let mut cuda = cuda();
    let done = match cuda.visible {
        _ if script.failing.contains(name) => Err(CuResult::Unknown),
        None => Err(CuResult::NotInitialized),
        Some(_) => act(&script, &mut cuda),
    };
    done.err().unwrap_or(CuResult::Success)
}

/// As [`answer`], on the GPU that is computed on.
fn answer_on(name: &str, act: impl FnOnce(&Gpu, &mut Cuda) -> CuDone) -> CuResult {
    answer(name, |script, cuda| {
        let current = cuda.current.ok_or(CuResult::InvalidContext)?;
        act(present(script, current).ok_or(CuResult::Unknown)?, cuda)
    })
}

fn present(script: &Script, index: u32) -> Option<&Gpu> {
    script.gpus.get(&index).filter(|gpu| !gpu.is_lost && !gpu.needs_reset)
}

/// The GPUs that the environment lets this process see, in its order: all of them without a
/// word, else those before the first that is not there.
fn visible(script: &Script) -> Vec<u32> {
    let there = |index: &u32| present(script, *index).is_some();
    let Ok(wanted) = std::env::var("CUDA_VISIBLE_DEVICES") else {
        return script.gpus.keys().copied().filter(there).collect();
    };
    let index_of = |uuid: &str| {
        let mut gpus = script.gpus.iter();
        gpus.find(|(_, gpu)| gpu.uuid.as_deref() == Some(uuid)).map(|(index, _)| *index)
    };
    wanted.split(',').map_while(|uuid| index_of(uuid).filter(there)).collect()
}

fn gpu_of(cuda: &Cuda, device: CuDevice) -> Result<u32, CuResult> {
    let position = usize::try_from(device).map_err(|_| CuResult::InvalidDevice)?;
    let visible = cuda.visible.as_deref().unwrap_or_default();
    visible.get(position).copied().ok_or(CuResult::InvalidDevice)
}

/// What the interface says of a pointer that leads nowhere.
fn wrote(done: crate::Done) -> CuDone {
    done.map_err(|_| CuResult::InvalidValue)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> CuResult {
    let script = hang("cuInit");
    match script.init {
        _ if flags != 0 => return CuResult::InvalidValue,
        _ if script.failing.contains("cuInit") => return CuResult::Unknown,
        Init::Works => {}
        Init::NoDriver => return CuResult::NoDevice,
        Init::Mismatch => return CuResult::SystemDriverMismatch,
    }
    let visible = visible(&script);
    if visible.is_empty() {
        return CuResult::NoDevice;
    }
    cuda().visible = Some(visible);
    CuResult::Success
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(result: c_uint, name: *mut *const c_char) -> CuResult {
    let text = match result {
        0 => c"CUDA_SUCCESS",
        1 => c"CUDA_ERROR_INVALID_VALUE",
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        3 => c"CUDA_ERROR_NOT_INITIALIZED",
        100 => c"CUDA_ERROR_NO_DEVICE",
        101 => c"CUDA_ERROR_INVALID_DEVICE",
        201 => c"CUDA_ERROR_INVALID_CONTEXT",
        803 => c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        999 => c"CUDA_ERROR_UNKNOWN",
        _ => return CuResult::InvalidValue,
    };
    // SAFETY: CUDA's callers pass where to write.
    wrote(unsafe { put(name, text.as_ptr()) }).err().unwrap_or(CuResult::Success)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CuResult {
    answer("cuDeviceGetCount", |_, cuda| {
        let found = cuda.visible.as_ref().map_or(0, Vec::len);
        let found = c_int::try_from(found).map_err(|_| CuResult::Unknown)?;
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(count, found) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut CuDevice, ordinal: c_int) -> CuResult {
    answer("cuDeviceGet", |_, cuda| {
        gpu_of(cuda, ordinal)?;
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(device, ordinal) })
    })
}

/// The bytes of `GPU-5b1c…`; zeros where the script's uuid is none of that form.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; UUID_BYTES], device: CuDevice) -> CuResult {
    answer("cuDeviceGetUuid", |script, cuda| {
        let gpu = script.gpus.get(&gpu_of(cuda, device)?).ok_or(CuResult::InvalidDevice)?;
        let text = gpu.uuid.clone().unwrap_or_default();
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(uuid, uuid_bytes(&text).unwrap_or_default()) })
    })
}

fn uuid_bytes(text: &str) -> Option<[u8; UUID_BYTES]> {
    let digits = text.strip_prefix("GPU-")?.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 2 * UUID_BYTES).then(|| number.to_be_bytes())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxCreate_v2(
    context: *mut CuContext,
    _flags: c_uint,
    device: CuDevice,
) -> CuResult {
    answer("cuCtxCreate_v2", |script, cuda| {
        let index = gpu_of(cuda, device)?;
        present(script, index).ok_or(CuResult::Unknown)?;
        cuda.current = Some(index);
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(context, std::ptr::without_provenance_mut(index as usize + 1)) })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(_context: CuContext) -> CuResult {
    answer_on("cuCtxDestroy_v2", |_, cuda| {
        cuda.current = None;
        cuda.pieces.clear();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CuResult {
    answer_on("cuCtxSynchronize", |_, _| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CuResult {
    answer_on("cuMemGetInfo_v2", |gpu, _| {
        let all = gpu.memory_total_bytes.unwrap_or(FREE_BYTES_MAX);
        let left = all.saturating_sub(gpu.memory_used_bytes.unwrap_or(0)).min(FREE_BYTES_MAX);
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| CuResult::Unknown);
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(free, size(left)?) })?;
        // SAFETY: as before.
        wrote(unsafe { put(total, size(all)?) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut CuPointer, bytes: usize) -> CuResult {
    answer_on("cuMemAlloc_v2", |_, cuda| {
        let taken: usize = cuda.pieces.values().map(Vec::len).sum();
        let all = u64::try_from(taken.saturating_add(bytes)).map_err(|_| CuResult::OutOfMemory)?;
        if bytes == 0 || all > FREE_BYTES_MAX {
            return Err(CuResult::OutOfMemory);
        }
        cuda.pieces_made += 1;
        let begin = cuda.pieces_made * PIECE_BYTES;
        cuda.pieces.insert(begin, vec![0; bytes]);
        // SAFETY: CUDA's callers pass where to write.
        wrote(unsafe { put(pointer, begin) })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(pointer: CuPointer) -> CuResult {
    answer_on("cuMemFree_v2", |_, cuda| {
        cuda.pieces.remove(&pointer).map(drop).ok_or(CuResult::InvalidValue)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(to: CuPointer, value: c_uint, words: usize) -> CuResult {
    answer_on("cuMemsetD32_v2", |_, cuda| {
        let bytes = (words as u64).checked_mul(4).ok_or(CuResult::InvalidValue)?;
        for word in cuda.bytes(to, bytes)?.chunks_exact_mut(4) {
            word.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: CuPointer, from: CuPointer, bytes: usize) -> CuResult {
    answer_on("cuMemcpyDtoD_v2", |_, cuda| {
        let copied = cuda.bytes(from, bytes as u64)?.to_vec();
        cuda.bytes(to, bytes as u64)?.copy_from_slice(&copied);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: CuPointer, from: *const u8, bytes: usize) -> CuResult {
    answer_on("cuMemcpyHtoD_v2", |_, cuda| {
        for (position, byte) in cuda.bytes(to, bytes as u64)?.iter_mut().enumerate() {
            // SAFETY: CUDA's callers pass as many bytes as they say, or nothing at all.
            *byte =
                unsafe { read(from.wrapping_add(position)) }.map_err(|_| CuResult::InvalidValue)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut u8, from: CuPointer, bytes: usize) -> CuResult {
    answer_on("cuMemcpyDtoH_v2", |gpu, cuda| {
        let mut copied = cuda.bytes(from, bytes as u64)?.to_vec();
        if let Some(byte) = copied.last_mut().filter(|_| gpu.has_bad_memory) {
            // One bit of it.
            *byte ^= 0x10;
        }
        // SAFETY: CUDA's callers pass room for as many bytes as they ask for.
        wrote(unsafe { put_each(to, copied.into_iter()) })
    })
}
