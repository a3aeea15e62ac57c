//! Circumstances that the numbers of a document depend on.

use crate::{Build, Environment};

/// A circumstance: a name, and the value if it has one.
pub(crate) type Circumstance = (String, Option<String>);

/// Value of a circumstance, `-` if it is absent.
pub(crate) fn value<'a>(circumstances: &'a [Circumstance], name: &str) -> &'a str {
    let found = circumstances.iter().find(|(found, _)| found == name);
    found.and_then(|(_, value)| value.as_deref()).unwrap_or("-")
}

/// Circumstances of the environment.
pub(crate) fn circumstances(environment: &Environment) -> Vec<Circumstance> {
    let Environment { build, .. } = environment;
    let yes = |flag: Option<bool>| flag.map(|flag| if flag { "yes" } else { "no" }.to_owned());
    let named = [
        ("git", git(build)),
        ("profile", build.profile.clone()),
        ("target", build.target.clone()),
        ("rustc", build.rustc.clone()),
        ("rustflags", build.rustflags.clone()),
        ("host", environment.host.clone()),
        ("product", environment.product.clone()),
        ("hypervisor", environment.hypervisor.clone()),
        ("kernel", environment.kernel.clone()),
        ("kernel build", environment.kernel_build.clone()),
        ("architecture", environment.arch.clone()),
        ("CPU", environment.cpu_model.clone()),
        ("CPUs online", environment.cpus_online.clone()),
        ("CPUs allowed", environment.cpus_allowed.clone()),
        ("SMT", yes(environment.smt)),
        ("turbo", yes(environment.turbo)),
        ("governor", environment.governor.clone()),
        ("clock source", environment.clocksource.clone()),
        ("cgroup CPUs", environment.cgroup_cpus.map(|cpus| cpus.to_string())),
    ];
    let named = named.map(|(name, value)| (name.to_owned(), value));
    let mitigations = environment.mitigations.iter();
    let sysctl = environment.sysctl.iter();
    named
        .into_iter()
        .chain(mitigations.map(|(name, text)| (format!("mitigation {name}"), Some(text.clone()))))
        .chain(sysctl.map(|(name, text)| (name.clone(), Some(text.clone()))))
        .collect()
}

/// Commit, and a mark if the sources differed from it: `912762ea10 changed`.
pub(crate) fn git(build: &Build) -> Option<String> {
    let dirty = if build.git_dirty == Some(true) { " changed" } else { "" };
    let revision = build.git_revision.as_ref();
    revision.map(|all| format!("{}{dirty}", all.get(..10).unwrap_or(all)))
}
