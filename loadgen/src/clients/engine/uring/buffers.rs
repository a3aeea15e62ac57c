//! A provided-buffer ring: the kernel takes a buffer for what has come, and a connection that
//! waits for its reply needs none (`io_uring_provided_buffers(7)`).

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The buffer group's number; a ring has one.
pub(super) const GROUP: u16 = 0;

/// The length of a buffer, at most. What is longer comes in pieces.
const LENGTH_MAX: usize = 64 << 10;

/// The memory of all buffers, at most.
const MEMORY_MAX: usize = 16 << 20;

/// Buffers at least and at most. They are used in turn: the fewer, the better they stay in the
/// processor's cache. Who finds none left receives a turn later.
const COUNT: (usize, usize) = (16, 2048);

/// The ring and the buffers' memory. A buffer is the kernel's to fill, except from the completion
/// that names it until [`give_back`](Self::give_back).
pub(super) struct Buffers {
    ring: Mapping<BufRingEntry>,
    memory: Mapping<u8>,
    count: u16,
    length: usize,
    tail: u16,
}

impl Buffers {
    /// Registers buffers for `conns` connections, each for a reply of `size` bytes and one byte
    /// more, so that a surplus byte is seen.
    ///
    /// # Errors
    ///
    /// When there is no memory, or (EINVAL, before Linux 5.19) the kernel knows no such rings.
    pub(super) fn register(ring: &IoUring, conns: usize, size: usize) -> io::Result<Self> {
        let length = (size + 1).next_multiple_of(64).min(LENGTH_MAX);
        let affordable = 1 << (MEMORY_MAX / length).ilog2();
        let count = conns.next_power_of_two().clamp(COUNT.0, COUNT.1).min(affordable);
        let mut buffers = Self {
            ring: Mapping::new(count)?,
            memory: Mapping::new(count * length)?,
            count: count as u16,
            length,
            tail: 0,
        };
        let addr = buffers.ring.start.as_ptr() as u64;
        let submitter = ring.submitter();
        // SAFETY: the memory is page-aligned, large enough, and mapped until it is dropped, which
        // is after the io_uring is (`super::Uring`).
        unsafe { submitter.register_buf_ring_with_flags(addr, buffers.count, GROUP, 0) }?;
        for index in 0..buffers.count {
            buffers.give_back(index);
        }
        buffers.commit();
        Ok(buffers)
    }

    /// Hands a buffer to the kernel, from the next [`commit`](Self::commit) on.
    #[inline]
    pub(super) fn give_back(&mut self, index: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        let addr = self.at(index).as_ptr() as u64;
        // SAFETY: the slot is within the ring.
        let mut entry = unsafe { self.ring.start.add(slot) };
        // SAFETY: only we write to the ring, and the kernel reads the slot after the commit.
        let entry = unsafe { entry.as_mut() };
        // Field by field: the ring's tail lies over a part of the first entry that these are not.
        entry.set_addr(addr);
        entry.set_len(self.length as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the buffers given back.
    #[inline]
    pub(super) fn commit(&mut self) {
        // SAFETY: the ring is mapped.
        let tail = unsafe { BufRingEntry::tail(self.ring.start.as_ptr()) };
        // SAFETY: the tail is aligned and within the mapping; the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Release);
    }

    /// What the kernel has put into a buffer. The caller has the completion that names it, and has
    /// not given it back.
    #[inline]
    pub(super) fn filled(&self, index: u16, length: usize) -> &[u8] {
        assert!(length <= self.length);
        // SAFETY: that much is within the memory, and nobody writes to a buffer that is ours.
        unsafe { slice::from_raw_parts(self.at(index).as_ptr(), length) }
    }

    #[inline]
    fn at(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: the index is within the memory.
        unsafe { self.memory.start.add(usize::from(index) * self.length) }
    }
}

/// Zeroed, page-aligned memory for values, backed by pages only where it is used.
struct Mapping<T> {
    start: NonNull<T>,
    bytes: usize,
}

impl<T> Mapping<T> {
    fn new(count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<T>();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping touches nobody's memory.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it any more.
        let _mapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
