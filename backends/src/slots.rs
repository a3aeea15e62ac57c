//! The table of a shard's connections, and their keys.
//!
//! A key outlives its connection in the kernel's queues: an event or a completion can arrive after
//! the slot has been given to another connection. So a key has the slot's generation, and an old
//! key finds nothing.

/// Identifies one connection for as long as it lives.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Bits of a generation: what is left of io_uring's `user_data` beside the index and the kind of
/// operation.
const GENERATION_BITS: u32 = 24;

impl Key {
    /// Packs the key into the low 56 bits of a word, which the kernel returns with each event.
    pub(crate) const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// Unpacks the key from the low 56 bits of `word`.
    pub(crate) const fn unpack(word: u64) -> Self {
        let generation = (word >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
        Self { index: word as u32, generation }
    }
}

/// A table with stable indexes. Freed slots are used again, the last freed first.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    vacant: Option<u32>,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    slot: Slot<T>,
}

#[derive(Debug)]
enum Slot<T> {
    Vacant { next: Option<u32> },
    Occupied(T),
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), vacant: None, len: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_key| value)
    }

    /// Inserts a value that is made from its key.
    pub(crate) fn insert_with(&mut self, value: impl FnOnce(Key) -> T) -> Key {
        self.len += 1;
        if let Some(index) = self.vacant {
            let entry = &mut self.entries[index as usize];
            let Slot::Vacant { next } = entry.slot else { unreachable!("in the vacant list") };
            let key = Key { index, generation: entry.generation };
            self.vacant = next;
            entry.slot = Slot::Occupied(value(key));
            return key;
        }
        let index = u32::try_from(self.entries.len()).expect("fewer descriptors than 2^32");
        let key = Key { index, generation: 0 };
        self.entries.push(Entry { generation: 0, slot: Slot::Occupied(value(key)) });
        key
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize) {
            Some(Entry { generation, slot: Slot::Occupied(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let entry = &mut self.entries[key.index as usize];
        entry.generation = (entry.generation + 1) & ((1 << GENERATION_BITS) - 1);
        let freed = std::mem::replace(&mut entry.slot, Slot::Vacant { next: self.vacant });
        self.vacant = Some(key.index);
        self.len -= 1;
        match freed {
            Slot::Occupied(value) => Some(value),
            Slot::Vacant { .. } => unreachable!("get_mut found it occupied"),
        }
    }

    /// Returns the key of the value at `index`.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        match self.entries.get(index as usize)? {
            Entry { generation, slot: Slot::Occupied(_) } => {
                Some(Key { index, generation: *generation })
            }
            Entry { slot: Slot::Vacant { .. }, .. } => None,
        }
    }

    /// Returns the keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        (0..self.entries.len() as u32).filter_map(|index| self.key_at(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_key_finds_nothing_in_a_slot_used_again() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!(first.index, second.index);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn packed_keys_unpack_and_generations_wrap() {
        let mut slots = Slots::new();
        for _ in 0..(1 << GENERATION_BITS) {
            let key = slots.insert(());
            assert_eq!(Key::unpack(key.pack() | 0xab << 56), key);
            slots.remove(key);
        }
        assert_eq!(slots.insert(()), Key { index: 0, generation: 0 });
    }

    #[test]
    fn keys_are_those_of_occupied_slots() {
        let mut slots = Slots::new();
        let keys: Vec<_> = (0..4).map(|n| slots.insert(n)).collect();
        slots.remove(keys[1]);
        slots.remove(keys[2]);
        assert_eq!(slots.keys(), [keys[0], keys[3]]);
        assert_eq!(slots.key_at(1), None);
        let again = slots.insert(9);
        assert_eq!(again.index, 2, "the last freed first");
    }
}
