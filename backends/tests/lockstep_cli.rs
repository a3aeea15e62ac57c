//! End-to-end tests of the `lockstep` binary (being written).
