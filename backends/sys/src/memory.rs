//! Lack of memory: one line and an exit code, where Rust's answer is an abort with a backtrace.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Write};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::limits;

/// Memory that must be left beside the stack of a new thread. An allocation that fails ends the
/// process, and threads that run may need some.
const HEADROOM: usize = 4 << 20;

/// Stack of a thread of std.
const STACK: usize = 2 << 20;

/// Returns a builder of a thread with this name.
///
/// # Errors
///
/// `ENOMEM` if there is not enough memory for it: std aborts the process if a new thread cannot map
/// the stack on which it handles an overflow (`stack_overflow.rs`).
pub fn thread(name: impl Into<String>) -> io::Result<thread::Builder> {
    if limits::address_space().is_some() {
        share_one_heap();
    }
    room_for(STACK)?;
    Ok(thread::Builder::new().name(name.into()))
}

/// Checks that a thread with a stack of this size would leave some memory, by mapping that much and
/// unmapping it again: the limit may be one of address space or of data (getrlimit(2)), or the
/// machine's (`vm.overcommit_memory`).
///
/// # Errors
///
/// `ENOMEM` if there is less.
pub fn room_for(stack: usize) -> io::Result<()> {
    let (length, protection) = (stack + HEADROOM, ProtFlags::READ | ProtFlags::WRITE);
    let (anywhere, private) = (ptr::null_mut(), MapFlags::PRIVATE);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let mapping = unsafe { mmap_anonymous(anywhere, length, protection, private)? };
    // SAFETY: nothing uses the mapping.
    unsafe { munmap(mapping, length)? };
    Ok(())
}

/// Makes all threads allocate from one heap, in the whole process and for good. By default glibc
/// makes up to eight heaps for each CPU, each of which reserves 64 MiB of address space.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Allocator that ends the process with exit code 1 if memory is short. To be set with
/// `#[global_allocator]`.
#[derive(Debug)]
pub struct OrExit;

// SAFETY: every call is passed on unchanged to the system's allocator, and what that returns is
// returned unless it is null.
unsafe impl GlobalAlloc for OrExit {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        or_exit(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[inline]
fn or_exit(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        exit(size);
    }
    pointer
}

/// Ends the process without allocating.
#[cold]
fn exit(size: usize) -> ! {
    static EXITING: AtomicBool = AtomicBool::new(false);
    if !EXITING.swap(true, Relaxed) {
        let mut line = [0; 200];
        let mut rest = &mut line[..];
        let error = format_args!("error: out of memory: cannot allocate {size} bytes (ENOMEM)\n");
        let _fits = match limits::address_space() {
            Some(limit) => {
                let kib = limit / 1024;
                writeln!(rest, "{error}hint: the limit of address space is {kib} KiB (ulimit -v)")
            }
            None => write!(rest, "{error}"),
        };
        let length = 200 - rest.len();
        // SAFETY: `line` has at least `length` bytes.
        let _closed = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length) };
    }
    // SAFETY: it ends the process, and needs nothing of the caller.
    unsafe { libc::_exit(1) }
}
