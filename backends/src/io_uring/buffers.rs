//! A provided-buffer ring: receive buffers that belong to the kernel until a completion names
//! one, so that a connection waiting for its next request needs none (`io_uring_provided_buffers(7)`).
//!
//! The ring starts small and grows when the kernel runs out: buffers are used in turn, so a ring
//! no larger than needed stays in the processor's cache.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use lockstep_core::RECV_MAX;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The buffer group's number; a shard has one.
pub(super) const GROUP: u16 = 0;

/// How many buffers the kernel gets at first.
const FIRST: u16 = 64;

/// The ring and the buffers' memory.
///
/// A buffer is named by its index. It is either the kernel's to fill, or, from the completion
/// that names it until [`give_back`](Self::give_back), ours.
pub(super) struct Buffers {
    ring: NonNull<BufRingEntry>,
    memory: NonNull<[u8; RECV_MAX]>,
    /// Slots of the ring, a power of two, and buffers there may be.
    capacity: u16,
    /// Buffers in use: the kernel's and ours.
    provided: u16,
    tail: u16,
}

impl Buffers {
    /// Registers a ring of at most `capacity` buffers, a power of two up to 2^15.
    ///
    /// # Errors
    ///
    /// If the kernel has no memory for it, or (EINVAL, before Linux 5.19) knows no such rings.
    pub(super) fn register(ring: &IoUring, capacity: u16) -> io::Result<Self> {
        assert!(capacity.is_power_of_two());
        let buffers = Self {
            ring: map::<BufRingEntry>(capacity)?,
            memory: map::<[u8; RECV_MAX]>(capacity)?,
            capacity,
            provided: 0,
            tail: 0,
        };
        let addr = buffers.ring.as_ptr() as u64;
        // SAFETY: the ring's memory is page-aligned, large enough, and mapped until it is dropped,
        // which is after the io_uring is (`super::Loop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(addr, capacity, GROUP, 0) }?;
        let mut buffers = buffers;
        buffers.provide(FIRST);
        Ok(buffers)
    }

    /// Gives the kernel as many buffers again, if there are any left; the kernel had run out.
    pub(super) fn grow(&mut self) {
        self.provide(self.provided.min(self.capacity - self.provided));
    }

    fn provide(&mut self, more: u16) {
        let from = self.provided;
        self.provided = (from + more).min(self.capacity);
        for index in from..self.provided {
            self.give_back(index);
        }
        self.commit();
    }

    /// Hands a buffer to the kernel, from the next [`commit`](Self::commit) on.
    pub(super) fn give_back(&mut self, index: u16) {
        assert!(index < self.provided);
        let slot = usize::from(self.tail & (self.capacity - 1));
        // SAFETY: the slot is within the ring.
        let mut entry = unsafe { self.ring.add(slot) };
        // SAFETY: only we write to the ring, and the kernel reads the slot after the commit.
        let entry = unsafe { entry.as_mut() };
        // Field by field: the ring's tail lies over a part of the first entry that these are not.
        entry.set_addr(self.pointer(index) as u64);
        entry.set_len(RECV_MAX as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the buffers given back.
    pub(super) fn commit(&mut self) {
        // SAFETY: the ring is mapped.
        let tail = unsafe { BufRingEntry::tail(self.ring.as_ptr()) };
        // SAFETY: the tail is aligned and within the mapping; the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Release);
    }

    /// The buffer's address, for a send.
    pub(super) fn pointer(&self, index: u16) -> *const u8 {
        assert!(index < self.capacity);
        // SAFETY: the index is within the memory.
        unsafe { self.memory.as_ptr().add(usize::from(index)) }.cast::<u8>()
    }

    /// A buffer that is ours: the caller has the completion that named it, and has not given it
    /// back.
    pub(super) fn buffer(&mut self, index: u16) -> &mut [u8; RECV_MAX] {
        assert!(index < self.provided);
        // SAFETY: the index is within the memory.
        let mut buffer = unsafe { self.memory.add(usize::from(index)) };
        // SAFETY: the borrow of self protects it from us; the kernel at most reads from it, for a
        // send, and no receive fills a buffer that is ours.
        unsafe { buffer.as_mut() }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        unmap(self.ring, self.capacity);
        unmap(self.memory, self.capacity);
    }
}

/// Zeroed, page-aligned memory for `count` values, backed by pages only where it is used.
fn map<T>(count: u16) -> io::Result<NonNull<T>> {
    let length = usize::from(count) * size_of::<T>();
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping touches nobody's memory.
    let memory = unsafe { mmap_anonymous(ptr::null_mut(), length, protection, flags) }?;
    NonNull::new(memory.cast::<T>()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn unmap<T>(memory: NonNull<T>, count: u16) {
    // SAFETY: it was mapped with this length, and nothing refers to it any more.
    let _mapped = unsafe { munmap(memory.as_ptr().cast(), usize::from(count) * size_of::<T>()) };
}
