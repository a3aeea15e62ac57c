//! Private network namespaces (network_namespaces(7)): loopback interface, counters and settings of
//! their own. They end with the thread or process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use rustix::net::{AddressFamily, SocketType};
use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::errno::describe;

/// The network namespace of the calling thread (namespaces(7)).
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Moves the calling thread into a new network namespace with the loopback interface up. Sockets
/// that it opens, and threads and processes that it starts, are in the new namespace, too.
///
/// # Errors
///
/// `EPERM` without CAP_SYS_ADMIN or CAP_NET_ADMIN. The thread is in its old namespace then.
pub fn enter() -> io::Result<()> {
    let old = fs::File::open(NAMESPACE)?;
    unshare(UnshareFlags::NEWNET)?;
    loopback_up().or_else(|error| {
        move_into_link_name_space(old.as_fd(), Some(LinkNameSpaceType::Network))?;
        Err(error)
    })
}

/// Proof that this process has left the network namespace that it was started in.
#[derive(Debug)]
pub struct Private {
    inode: u64,
}

impl Private {
    /// Moves this process into a new network namespace with the loopback interface up. Without
    /// CAP_SYS_ADMIN or CAP_NET_ADMIN it enters a new user namespace as well, which grants both
    /// (user_namespaces(7)); that fails in a process with several threads.
    ///
    /// # Errors
    ///
    /// A text for the user that names the call that is not allowed here.
    pub fn enter() -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("{what}: {}", describe(&error));
        let before = inode().map_err(|error| failed("/proc", error))?;
        let enter = |flags| {
            unshare(flags).map_err(|error| failed("unshare(2)", error))?;
            loopback_up().map_err(|error| failed("the loopback interface", error))
        };
        let with_user = || enter(UnshareFlags::NEWNET | UnshareFlags::NEWUSER);
        match geteuid().is_root() {
            // Root in a container may lack the capabilities and still be allowed the other.
            true => enter(UnshareFlags::NEWNET).or_else(|error| with_user().map_err(|_| error))?,
            false => with_user()?,
        }
        let inode = inode().map_err(|error| failed("/proc", error))?;
        if inode == before {
            return Err("the network namespace is still the old one".to_owned());
        }
        Ok(Self { inode })
    }

    /// Changes a setting of this namespace, such as `net/core/somaxconn`.
    ///
    /// # Errors
    ///
    /// A text for the user that names the setting.
    pub fn set(&self, setting: &str, value: u32) -> Result<(), String> {
        // The kernel changes the setting in the namespace of the writing thread.
        if inode().ok() != Some(self.inode) {
            return Err(format!("{setting}: not in the private network namespace"));
        }
        fs::write(format!("/proc/sys/{setting}"), value.to_string())
            .map_err(|error| format!("cannot set {setting}: {}", describe(&error)))
    }
}

/// Returns the number that identifies the network namespace of the calling thread.
fn inode() -> io::Result<u64> {
    Ok(fs::metadata(NAMESPACE)?.ino())
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: neither flag affects descriptors or memory.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Brings `lo` up (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::NetCounters;

    #[test]
    fn thread_in_a_new_namespace_has_loopback_and_counters_of_its_own() {
        let outside = inode().unwrap();
        let inside = std::thread::spawn(|| {
            enter()?;
            let before = NetCounters::read()?;
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
            let opened = NetCounters::read()?.since(&before)["ActiveOpens"];
            Ok::<_, io::Error>((inode()?, opened))
        });
        match inside.join().unwrap() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("SKIPPED: no CAP_SYS_ADMIN");
            }
            result => {
                let (inside, opened) = result.unwrap();
                assert_ne!(inside, outside);
                assert_eq!(opened, 1);
            }
        }
        assert_eq!(inode().unwrap(), outside);
    }
}
