//! NVIDIA's library for computing (libcuda), as far as a test of a GPU's memory needs it: found at
//! run time, since most hosts have none. Every call may hang, so that this belongs into a process
//! of its own.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;

use libloading::Library;

/// `CUresult`.
type Code = c_int;
/// `CUdevice`.
type Ordinal = c_int;
/// `CUcontext`.
type Handle = *mut c_void;
/// `CUdeviceptr`.
type Address = u64;
pub type Uuid = [u8; 16];

const WORD_BYTES: usize = size_of::<u32>();

/// The library. Calls are announced before they are made, by their names.
pub struct Cuda {
    calls: Calls,
    announce: fn(&'static str),
    /// Dropped last: the functions are in it.
    _library: Library,
}

/// That a call did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    pub call: &'static str,
    /// As in `cuda.h`.
    pub code: Code,
}

/// A device of those that this process may use.
#[derive(Clone, Copy, Debug)]
pub struct Device(Ordinal);

/// What this thread computes with, on one device. Only this thread can: a context is current to
/// whoever made it.
pub struct Context<'cuda> {
    cuda: &'cuda Cuda,
    handle: Handle,
}

/// Memory of a device, in words. It is freed by [`Memory::free`], or with its context, or with
/// the process.
pub struct Memory<'context> {
    cuda: &'context Cuda,
    address: Address,
    word_count: usize,
    /// Not without its context, and not on another thread.
    _context: PhantomData<&'context Context<'context>>,
}

/// The functions, with the signatures of `cuda.h` (interface of CUDA 12; the names without `_v2`
/// are those of an interface before CUDA 4).
struct Calls {
    init: unsafe extern "C" fn(c_uint) -> Code,
    error_name: unsafe extern "C" fn(Code, *mut *const c_char) -> Code,
    device_count: unsafe extern "C" fn(*mut c_int) -> Code,
    device: unsafe extern "C" fn(*mut Ordinal, c_int) -> Code,
    device_uuid: unsafe extern "C" fn(*mut Uuid, Ordinal) -> Code,
    create_context: unsafe extern "C" fn(*mut Handle, c_uint, Ordinal) -> Code,
    destroy_context: unsafe extern "C" fn(Handle) -> Code,
    synchronize: unsafe extern "C" fn() -> Code,
    memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> Code,
    allocate: unsafe extern "C" fn(*mut Address, usize) -> Code,
    free: unsafe extern "C" fn(Address) -> Code,
    set_words: unsafe extern "C" fn(Address, c_uint, usize) -> Code,
    copy_on_device: unsafe extern "C" fn(Address, Address, usize) -> Code,
    copy_to_device: unsafe extern "C" fn(Address, *const c_void, usize) -> Code,
    copy_to_host: unsafe extern "C" fn(*mut c_void, Address, usize) -> Code,
}

/// The function of that name.
///
/// # Safety
/// It has the type `F`, which is that of a pointer to a function.
unsafe fn function<F: Copy>(library: &Library, name: &CStr) -> Result<F, libloading::Error> {
    // SAFETY: the caller vouches for the type.
    let symbol = unsafe { library.get::<F>(name.to_bytes_with_nul()) }?;
    Ok(*symbol)
}

impl Calls {
    fn of(library: &Library) -> Result<Calls, libloading::Error> {
        // SAFETY: each type is that of the function of this name in `cuda.h`.
        unsafe {
            Ok(Calls {
                init: function(library, c"cuInit")?,
                error_name: function(library, c"cuGetErrorName")?,
                device_count: function(library, c"cuDeviceGetCount")?,
                device: function(library, c"cuDeviceGet")?,
                device_uuid: function(library, c"cuDeviceGetUuid")?,
                create_context: function(library, c"cuCtxCreate_v2")?,
                destroy_context: function(library, c"cuCtxDestroy_v2")?,
                synchronize: function(library, c"cuCtxSynchronize")?,
                memory_info: function(library, c"cuMemGetInfo_v2")?,
                allocate: function(library, c"cuMemAlloc_v2")?,
                free: function(library, c"cuMemFree_v2")?,
                set_words: function(library, c"cuMemsetD32_v2")?,
                copy_on_device: function(library, c"cuMemcpyDtoD_v2")?,
                copy_to_device: function(library, c"cuMemcpyHtoD_v2")?,
                copy_to_host: function(library, c"cuMemcpyDtoH_v2")?,
            })
        }
    }
}

impl Cuda {
    /// Loads the library at a path, or by a name that the loader looks for.
    ///
    /// # Errors
    /// There is none, or it is not this library.
    pub fn load(path: &OsStr, announce: fn(&'static str)) -> Result<Cuda, libloading::Error> {
        // SAFETY: loading runs the library's own initialisers. It is the driver's, or one that
        // whoever runs the agent has named, and this process does nothing else.
        let library = unsafe { Library::new(path) }?;
        let calls = Calls::of(&library)?;
        Ok(Cuda { calls, announce, _library: library })
    }

    /// What `cuda.h` calls a code.
    pub fn name_of(&self, code: Code) -> String {
        let mut name = std::ptr::null();
        // SAFETY: the library writes where a text is that lives as long as itself, or null.
        let told = unsafe { (self.calls.error_name)(code, &raw mut name) };
        if told != 0 || name.is_null() {
            return format!("CUDA's error {code}");
        }
        // SAFETY: it is a text of the library's own, with its end.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// # Errors
    /// Of the driver, or of every device: nothing can be computed by this process.
    pub fn init(&self) -> Result<(), Failed> {
        // SAFETY: it takes no more than flags, of which there are none.
        self.ask("cuInit", || unsafe { (self.calls.init)(0) })
    }

    /// How many devices this process may use.
    ///
    /// # Errors
    /// The library's.
    pub fn device_count(&self) -> Result<usize, Failed> {
        let mut count = 0;
        // SAFETY: one number is written there.
        self.ask("cuDeviceGetCount", || unsafe { (self.calls.device_count)(&raw mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The first of them.
    ///
    /// # Errors
    /// The library's.
    pub fn first_device(&self) -> Result<Device, Failed> {
        let mut device = 0;
        // SAFETY: one number is written there.
        self.ask("cuDeviceGet", || unsafe { (self.calls.device)(&raw mut device, 0) })?;
        Ok(Device(device))
    }

    /// # Errors
    /// The library's.
    pub fn uuid(&self, Device(device): Device) -> Result<Uuid, Failed> {
        let mut uuid = Uuid::default();
        // SAFETY: its type says that sixteen bytes are written there.
        let get = || unsafe { (self.calls.device_uuid)(&raw mut uuid, device) };
        self.ask("cuDeviceGetUuid", get)?;
        Ok(uuid)
    }

    /// # Errors
    /// The device cannot be computed on.
    pub fn create_context(&self, Device(device): Device) -> Result<Context<'_>, Failed> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: one handle is written there.
        let create = || unsafe { (self.calls.create_context)(&raw mut handle, 0, device) };
        self.ask("cuCtxCreate", create)?;
        Ok(Context { cuda: self, handle })
    }

    fn ask(&self, call: &'static str, make: impl FnOnce() -> Code) -> Result<(), Failed> {
        (self.announce)(call);
        match make() {
            0 => Ok(()),
            code => Err(Failed { call, code }),
        }
    }
}

impl Context<'_> {
    /// # Errors
    /// The library's.
    pub fn free_bytes(&self) -> Result<usize, Failed> {
        let (mut free, mut total) = (0, 0);
        let info = self.cuda.calls.memory_info;
        // SAFETY: one number is written to each.
        let get = || unsafe { info(&raw mut free, &raw mut total) };
        self.cuda.ask("cuMemGetInfo", get)?;
        Ok(free)
    }

    /// # Errors
    /// There is not so much, or the device cannot be used.
    pub fn allocate(&self, word_count: usize) -> Result<Memory<'_>, Failed> {
        let mut address = 0;
        let allocate = self.cuda.calls.allocate;
        // SAFETY: one address is written there; as many bytes are the device's own affair.
        let get = || unsafe { allocate(&raw mut address, word_count.saturating_mul(WORD_BYTES)) };
        self.cuda.ask("cuMemAlloc", get)?;
        Ok(Memory { cuda: self.cuda, address, word_count, _context: PhantomData })
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// Something of it failed.
    pub fn synchronize(&self) -> Result<(), Failed> {
        // SAFETY: it takes nothing.
        self.cuda.ask("cuCtxSynchronize", || unsafe { (self.cuda.calls.synchronize)() })
    }

    /// # Errors
    /// The library's.
    pub fn destroy(self) -> Result<(), Failed> {
        // SAFETY: the handle is that of a context which nobody has any more.
        let destroy = || unsafe { (self.cuda.calls.destroy_context)(self.handle) };
        self.cuda.ask("cuCtxDestroy", destroy)
    }
}

impl Memory<'_> {
    /// Has every word be this.
    ///
    /// # Errors
    /// The library's; so with the others.
    pub fn set(&self, value: u32) -> Result<(), Failed> {
        let set = self.cuda.calls.set_words;
        // SAFETY: it is this memory's own room.
        self.cuda.ask("cuMemsetD32", || unsafe { set(self.address, value, self.word_count) })
    }

    /// Takes over what is in other memory, as much of it as there is room for.
    pub fn copy_from(&self, other: &Memory<'_>) -> Result<(), Failed> {
        let bytes = self.word_count.min(other.word_count) * WORD_BYTES;
        let copy = self.cuda.calls.copy_on_device;
        // SAFETY: neither is shorter than that.
        self.cuda.ask("cuMemcpyDtoD", || unsafe { copy(self.address, other.address, bytes) })
    }

    /// Writes words from the given one on, as far as there is room.
    pub fn write(&self, first_word: usize, words: &[u32]) -> Result<(), Failed> {
        let (address, bytes) = self.room(first_word, words.len());
        let copy = self.cuda.calls.copy_to_device;
        // SAFETY: neither is shorter than that, and the words outlive the call.
        let copied = || unsafe { copy(address, words.as_ptr().cast(), bytes) };
        self.cuda.ask("cuMemcpyHtoD", copied)
    }

    /// Reads words from the given one on, as far as there are any.
    pub fn read(&self, first_word: usize, words: &mut [u32]) -> Result<(), Failed> {
        let (address, bytes) = self.room(first_word, words.len());
        let copy = self.cuda.calls.copy_to_host;
        // SAFETY: neither is shorter than that, and any bits are words.
        let copied = || unsafe { copy(words.as_mut_ptr().cast(), address, bytes) };
        self.cuda.ask("cuMemcpyDtoH", copied)
    }

    /// # Errors
    /// As before.
    pub fn free(self) -> Result<(), Failed> {
        // SAFETY: nobody has this memory any more.
        self.cuda.ask("cuMemFree", || unsafe { (self.cuda.calls.free)(self.address) })
    }

    /// Where the given word is, and how many bytes there are of so many words from there on.
    fn room(&self, first_word: usize, word_count: usize) -> (Address, usize) {
        let first_word = first_word.min(self.word_count);
        let bytes = word_count.min(self.word_count - first_word) * WORD_BYTES;
        (self.address + (first_word * WORD_BYTES) as Address, bytes)
    }
}
