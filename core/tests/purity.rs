//! What the crate promises besides its transitions: it depends on nothing, it is small, and its
//! names are stable.

use std::fs;
use std::mem::size_of;
use std::path::Path;

use lockstep_core::{Cause, Echo, Exchange, Hi, Op, RECV_MAX, Reply, Service};

/// Each connection has an exchange: what it grows by is paid once a connection.
const EXCHANGE_MAX: usize = 16;

/// The first operation is known to the compiler: no call, no clock, no allocation can be in it.
const FIRST: Op = Exchange::new().op();

#[test]
fn the_manifest_names_no_dependency() {
    let sections: Vec<_> = include_str!("../Cargo.toml")
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('['))
        .collect();
    assert_eq!(
        sections,
        ["[package]", "[lib]", "[dev-dependencies]", "[lints]"],
        "the core depends on nothing: no [dependencies], no [features], no build script"
    );
}

#[test]
fn the_crate_forbids_unsafe_code_and_the_standard_library() {
    let root = include_str!("../src/lib.rs");
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        assert!(root.lines().any(|line| line == attribute), "lib.rs lacks {attribute}");
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(&sources).expect("the sources of this crate") {
        let path = entry.expect("a source file").path();
        let source = fs::read_to_string(&path).expect("a source file in UTF-8");
        let linked = source.lines().find(|line| line.trim().starts_with("extern crate"));
        assert_eq!(linked, None, "{}: `core` and nothing else", path.display());
    }
}

#[test]
fn an_exchange_is_small_and_may_go_to_any_thread() {
    fn assert_plain<T: Send + Sync + Unpin + 'static>() {}
    assert_plain::<Exchange>();
    assert!(
        size_of::<Exchange>() <= EXCHANGE_MAX,
        "an exchange has {} bytes, more than {EXCHANGE_MAX}",
        size_of::<Exchange>()
    );
}

#[test]
fn the_first_operation_is_a_constant() {
    assert_eq!(FIRST, Op::Recv);
}

#[test]
fn the_names_of_the_causes_are_those_in_the_records() {
    let names = Cause::ALL.map(Cause::name);
    assert_eq!(names, ["bye", "done", "drain", "eof", "error", "idle"]);
    assert!(Cause::ALL.is_sorted(), "not in the order of their declaration");
}

#[test]
fn a_receive_asks_for_as_much_as_the_tutorial() {
    assert_eq!(RECV_MAX, 1024);
}

#[test]
fn the_services_answer_in_place() {
    let mut buffer = [b'x'; RECV_MAX];
    assert_eq!(Echo.reply(&mut buffer, RECV_MAX), Reply::Send(1024));
    assert_eq!(buffer, [b'x'; RECV_MAX]);
    assert_eq!(Hi.reply(&mut buffer, 1), Reply::SendThenClose(2));
    assert_eq!(buffer[..3], *b"hix");
}
