//! A ring of provided buffers: the kernel takes one when it has something to receive, so that a
//! connection waiting for its peer needs none (io_uring_provided_buffers(7)).

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Number of the buffer group; a ring has one.
pub(super) const GROUP: u16 = 0;

/// A buffer that the kernel has filled. It is the process's until it is recycled.
///
/// Dropping it instead takes the buffer out of use.
#[derive(Debug)]
#[must_use = "a buffer that is not recycled is lost"]
pub struct BufferId {
    index: u16,
    length: u32,
    /// Number of the [`Buffers`] that it belongs to.
    owner: u32,
}

impl BufferId {
    /// Number of bytes received.
    pub fn length(&self) -> usize {
        self.length as usize
    }
}

/// The buffers' memory, and the ring through which the kernel gets them.
///
/// A buffer is the kernel's from [`recycle`](Self::recycle) until a completion names it, and then
/// the process's, as a [`BufferId`]. The kernel takes buffers in the order in which they were
/// recycled: the fewer are in use, the better they stay in the CPU's cache.
pub(super) struct Buffers {
    ring: Mapping<BufRingEntry>,
    memory: Mapping<u8>,
    /// Bytes of a buffer.
    length: usize,
    /// Buffers there may be, a power of two; also the number of the ring's slots.
    capacity: u16,
    /// Buffers at first.
    first: u16,
    /// Buffers in use: the kernel's and the process's.
    provided: u16,
    /// Buffers from this one on are retired when they are recycled.
    kept: u16,
    retired: Vec<u16>,
    /// Buffers that are the process's.
    held: u16,
    tail: u16,
    number: u32,
}

impl Buffers {
    /// Registers `first` buffers of `length` bytes with `uring`, and room for `most`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if memory, or memory that may be locked, is short.
    pub(super) fn register(
        uring: &IoUring,
        first: u16,
        most: u16,
        length: usize,
    ) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(most.is_power_of_two() && most <= 1 << 15, "{most} buffers");
        assert!(u32::try_from(length).is_ok(), "buffers of {length} bytes");
        let mut buffers = Self {
            ring: Mapping::new(most.into())?,
            memory: Mapping::new(usize::from(most) * length)?,
            length,
            capacity: most,
            first,
            provided: 0,
            kept: most,
            retired: Vec::new(),
            held: 0,
            tail: 0,
            number: COUNT.fetch_add(1, Ordering::Relaxed),
        };
        let addr = buffers.ring.start.as_ptr() as u64;
        // SAFETY: the memory is page-aligned and holds `most` entries. It stays mapped until the
        // kernel has finished with the ring (`Ring::drop`).
        unsafe { uring.submitter().register_buf_ring_with_flags(addr, most, GROUP, 0) }?;
        buffers.provide(first);
        Ok(buffers)
    }

    /// Bytes of a buffer.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Doubles the number of buffers, up to the capacity; first, no buffer is retired any more.
    pub(super) fn grow(&mut self) {
        self.kept = self.capacity;
        if self.retired.is_empty() {
            return self.provide(self.provided);
        }
        for index in std::mem::take(&mut self.retired) {
            self.give(index);
        }
        self.commit();
    }

    /// Retires buffers beyond `needed`, one after another as they are recycled. Returns true if
    /// there are still more than at first.
    pub(super) fn shrink(&mut self, needed: usize) -> bool {
        if self.retired.is_empty() {
            let needed = u16::try_from(needed.next_power_of_two()).unwrap_or(u16::MAX);
            self.kept = needed.clamp(self.first, self.capacity);
        }
        self.provided > self.first
    }

    /// Gives the memory of the buffers back if the kernel has all of them: what is in them is of no
    /// use. The caller has taken all completions.
    pub(super) fn discard_unused(&mut self) {
        if self.held == 0 {
            self.memory.discard(0);
        }
    }

    fn retire(&mut self, index: u16) {
        self.retired.push(index);
        if self.retired.len() == usize::from(self.provided - self.kept) {
            self.retired = Vec::new();
            self.memory.discard(usize::from(self.kept) * self.length);
            (self.provided, self.kept) = (self.kept, self.capacity);
        }
    }

    fn provide(&mut self, more: u16) {
        let first = self.provided;
        self.provided += more.min(self.capacity - first);
        for index in first..self.provided {
            self.give(index);
        }
        self.commit();
    }

    /// Takes over the buffer that a completion names, with `length` bytes received.
    ///
    /// The caller passes each completion's buffer on once: it becomes writable for the process.
    pub(super) fn take(&mut self, index: u16, length: u32) -> BufferId {
        assert!(index < self.provided && length as usize <= self.length, "not of this ring");
        self.held += 1;
        BufferId { index, length, owner: self.number }
    }

    /// Returns a buffer to the kernel, with the next [`commit`](Self::commit).
    pub(super) fn recycle(&mut self, buffer: BufferId) {
        self.check(&buffer);
        self.held -= 1;
        if buffer.index < self.kept {
            self.give(buffer.index);
        } else {
            self.retire(buffer.index);
        }
    }

    fn give(&mut self, index: u16) {
        let slot = usize::from(self.tail & (self.capacity - 1));
        let addr = self.at(index).as_ptr() as u64;
        // SAFETY: the slot is within the mapping.
        let mut entry = unsafe { self.ring.start.add(slot) };
        // SAFETY: the kernel reads a slot only after the commit, and has read what was there
        // before: there are as many slots as buffers, and this one is not the kernel's.
        let entry = unsafe { entry.as_mut() };
        // Field by field: the ring's tail overlays the rest of the first entry.
        entry.set_addr(addr);
        entry.set_len(self.length as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the recycled buffers to the kernel.
    #[inline]
    pub(super) fn commit(&mut self) {
        // SAFETY: the ring is mapped.
        let tail = unsafe { BufRingEntry::tail(self.ring.start.as_ptr()) };
        // SAFETY: the tail is aligned and within the mapping; the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The bytes received.
    #[inline]
    pub(super) fn received(&self, buffer: &BufferId) -> &[u8] {
        self.check(buffer);
        // SAFETY: the bytes are within the memory, and the kernel at most reads a buffer for which
        // there is a `BufferId`.
        unsafe { slice::from_raw_parts(self.at(buffer.index).as_ptr(), buffer.length()) }
    }

    /// The whole buffer, with the bytes received at its start.
    #[inline]
    pub(super) fn whole(&mut self, buffer: &mut BufferId) -> &mut [u8] {
        self.check(buffer);
        // SAFETY: as in `received`; the borrows of the id and of self exclude another reference.
        // An id is given up for a send (`Ring::send_buffer`), so the kernel does not even read it.
        unsafe { slice::from_raw_parts_mut(self.at(buffer.index).as_ptr(), self.length) }
    }

    #[inline]
    fn check(&self, buffer: &BufferId) {
        assert!(buffer.owner == self.number, "a buffer of another ring");
    }

    #[inline]
    fn at(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.provided);
        // SAFETY: the index is within the memory.
        unsafe { self.memory.start.add(usize::from(index) * self.length) }
    }

    /// Keeps the memory mapped for ever.
    pub(super) fn leak(&mut self) {
        self.ring.leak();
        self.memory.leak();
    }
}

/// Zeroed, page-aligned memory for `T`s, backed by pages only where it is used.
struct Mapping<T> {
    start: NonNull<T>,
    bytes: usize,
}

impl<T> Mapping<T> {
    fn new(count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<T>();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping overlaps no other memory.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Gives the pages from this byte on back; they are zeroed when they are next used.
    fn discard(&mut self, from: usize) {
        let from = from.next_multiple_of(rustix::param::page_size()).min(self.bytes);
        let start = self.start.as_ptr().wrapping_byte_add(from);
        // SAFETY: the pages are within the mapping, and the caller needs nothing of what is there.
        let _advised = unsafe { madvise(start.cast(), self.bytes - from, Advice::LinuxDontNeed) };
    }

    fn leak(&mut self) {
        self.bytes = 0;
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: it was mapped with this length; its owner is dropped, so nothing refers to
            // it, and the kernel has finished with it, or it would have been leaked.
            let _mapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}
