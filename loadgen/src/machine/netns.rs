//! A network namespace of one's own (network_namespaces(7)): its own loopback interface, counters
//! and settings, gone with the process or thread.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Socket, Type};

use lockstep_sys::errno::describe;

/// Tells the network namespace of this thread from all others there are.
///
/// # Errors
///
/// Without `/proc`.
pub(crate) fn inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Moves this thread alone into a new network namespace with the loopback interface up. What it
/// opens, and the threads and processes it starts, are there, too.
///
/// # Errors
///
/// Without the privilege (CAP_SYS_ADMIN).
pub fn enter_alone() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)?;
    loopback_up()
}

/// Proof that this process has left the network namespace it was started in.
#[derive(Debug)]
pub(crate) struct Private {
    inode: u64,
}

impl Private {
    /// Moves this process into a new network namespace with the loopback interface up; without
    /// the privilege, into a new user namespace as well, which gives it (user_namespaces(7)).
    ///
    /// # Errors
    ///
    /// One line that says what is not allowed here.
    pub(crate) fn enter() -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("{what}: {}", describe(&error));
        let before = inode().map_err(|error| failed("/proc", error))?;
        let flags = match geteuid().is_root() {
            true => UnshareFlags::NEWNET,
            false => UnshareFlags::NEWNET | UnshareFlags::NEWUSER,
        };
        unshare(flags)
            .or_else(|error| match flags.contains(UnshareFlags::NEWUSER) {
                // Root in a container may lack the privilege and still be allowed this.
                false => unshare(flags | UnshareFlags::NEWUSER).map_err(|_| error),
                true => Err(error),
            })
            .map_err(|error| failed("unshare(2)", error))?;
        loopback_up().map_err(|error| failed("the loopback interface", error))?;
        let inode = inode().map_err(|error| failed("/proc", error))?;
        if inode == before {
            return Err("the network namespace is still the old one".to_owned());
        }
        Ok(Self { inode })
    }

    /// Changes a setting, `net/core/somaxconn` for one, of this namespace and no other.
    ///
    /// # Errors
    ///
    /// One line naming the setting.
    pub(crate) fn set(&self, setting: &str, value: u32) -> Result<(), String> {
        // What is written belongs to the namespace of the thread that writes.
        if inode().ok() != Some(self.inode) {
            return Err(format!("{setting}: not in the private network namespace"));
        }
        fs::write(format!("/proc/sys/{setting}"), value.to_string())
            .map_err(|error| format!("{setting} cannot be set: {}", describe(&error)))
    }
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: neither flag touches descriptors or memory. (A user namespace is refused to a process
    // with several threads.)
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Brings `lo` up (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the descriptor is open, and SIOCSIFFLAGS reads an `ifreq`.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
