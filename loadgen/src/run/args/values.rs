//! Values of options that need more than their unit, each refused with what to write instead.

use std::path::PathBuf;
use std::time::Duration;

use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::pattern::SIZE_MAX;
use crate::clients::schedule::{Arrivals, SECOND};
use crate::machine::placement::Place;
use lockstep_sys::units;

/// The shortest interval: to sum one up takes about a millisecond.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

pub(crate) fn positive(text: &str) -> Result<u64, String> {
    match units::count(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        interval if interval < INTERVAL_MIN => Err("must be at least 10ms".to_owned()),
        interval => Ok(interval),
    }
}

pub(crate) fn rate(text: &str) -> Result<u64, String> {
    match positive(text)? {
        rate @ ..=SECOND => Ok(rate),
        _ => Err("at most 1000M, one a nanosecond".to_owned()),
    }
}

pub(crate) fn arrivals(text: &str) -> Result<Arrivals, String> {
    match text {
        "constant" => Ok(Arrivals::Constant),
        "poisson" => Ok(Arrivals::Poisson),
        _ => Err("there are constant and poisson".to_owned()),
    }
}

pub(crate) fn place(text: &str) -> Result<Place, String> {
    [Place::Apart, Place::Steered]
        .into_iter()
        .find(|place| place.name() == text)
        .ok_or_else(|| "there are apart and steered".to_owned())
}

/// A page's name says what it is, so that no record is overwritten by a slip.
pub(crate) fn page(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension == "html" => Ok(path),
        _ => Err("a page's name ends in .html".to_owned()),
    }
}

pub(crate) fn conns(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count @ ..=1_000_000 => Ok(count as u32),
        _ => Err("at most a million".to_owned()),
    }
}

pub(crate) fn backlog(text: &str) -> Result<u32, String> {
    // listen(2) takes an int.
    match units::count(text)? {
        count @ 0..=0x7fff_ffff => Ok(count as u32),
        _ => Err("too many".to_owned()),
    }
}

/// Threads to start: a bound that keeps a slip of the keyboard from taking the machine down.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    match positive(text)? {
        count @ ..=4096 => Ok(count as usize),
        _ => Err("at most 4096".to_owned()),
    }
}

pub(crate) fn size(text: &str) -> Result<u32, String> {
    match units::size(text)? {
        0 => Err("must be at least 1".to_owned()),
        size if size > SIZE_MAX.into() => Err("at most 1MiB".to_owned()),
        size => Ok(size as u32),
    }
}

pub(crate) fn service(text: &str) -> Result<Service, String> {
    match text {
        "echo" => Ok(Service::Echo),
        "hi" => Ok(Service::Hi),
        "chat" => Err("it is answered by a person, and people are not measured".to_owned()),
        _ => Err("there are echo and hi".to_owned()),
    }
}

pub(crate) fn engine(text: &str) -> Result<Engine, String> {
    let found = Engine::ALL.into_iter().find(|engine| engine.name() == text);
    found.ok_or_else(|| "there are epoll and io-uring".to_owned())
}
