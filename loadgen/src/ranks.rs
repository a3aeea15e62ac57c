//! Ranks: several processes on several machines that generate one load together.

pub mod agreement;
mod pmi;
#[cfg(test)]
mod scripted_launcher;
