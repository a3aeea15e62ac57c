//! Control groups for tests, cgroups(7).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lockstep_results::cgroup::groups_of;

use crate::harness::{skip, wait_until};

/// A control group with a limit, below this process's own.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    /// Makes a group, and writes these texts to these files of it: those of version 1, or else of
    /// version 2. Where that is not possible, the test skips `feature`.
    #[track_caller]
    pub(crate) fn new(
        feature: &str,
        controller: &str,
        v1: &[(&str, &str)],
        v2: &[(&str, &str)],
    ) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = groups_of(Path::new("/"), &["self".to_owned()], controller).pop();
        let Some(own) = own else {
            skip(feature, format!("there are no control groups for {controller}"));
            return None;
        };
        let number = NUMBER.fetch_add(1, Relaxed);
        let group = Self(own.join(format!("lockstep-test-{}-{number}", std::process::id())));
        let write = |files: &[(&str, &str)]| {
            files.iter().try_for_each(|(file, text)| fs::write(group.0.join(file), text))
        };
        // Version 1, or 2 if the controller is enabled below the own group.
        let made = fs::create_dir(&group.0).and_then(|()| write(v1).or_else(|_| write(v2)));
        if let Err(error) = made {
            skip(feature, error);
            return None;
        }
        Some(group)
    }

    /// Makes a group without a limit of its own in this one.
    pub(crate) fn inner(&self) -> Self {
        let inner = Self(self.0.join("inner"));
        fs::create_dir(&inner.0).expect("a group can be made in the group");
        inner
    }

    /// Returns a command that runs in the group.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        let procs = self.0.join("cgroup.procs");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        inside
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It lasts until its last process has ended.
        wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}
