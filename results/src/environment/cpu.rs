//! CPUs, their settings, and the hypervisor.

use std::collections::BTreeSet;
use std::fs;

use super::read;

/// Value of `name` in lines of `name: value`, such as `/proc/cpuinfo`.
pub(super) fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        let value = value.trim();
        (found.trim_end() == name && !value.is_empty()).then(|| value.to_owned())
    })
}

/// Model of the CPUs from `/proc/cpuinfo`, whose layout differs between architectures.
pub(super) fn model(cpuinfo: &str) -> Option<String> {
    // x86 and some Arm; POWER; RISC-V.
    let named = ["model name", "cpu", "uarch"].iter().find_map(|name| field(cpuinfo, name));
    // Most 64-bit Arm kernels give the numbers of the MIDR register only.
    named.or_else(|| {
        let implementer = field(cpuinfo, "CPU implementer")?;
        let part = field(cpuinfo, "CPU part")?;
        Some(format!("Arm implementer {implementer} part {part}"))
    })
}

/// Hypervisor under this kernel; `None` on bare metal.
pub(super) fn hypervisor_of_this_machine(cpuinfo: &str) -> Option<String> {
    let clocks = read("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    hypervisor(
        cpuinfo,
        read("/sys/hypervisor/type").as_deref(),
        clocks.as_deref().unwrap_or_default(),
        product().as_deref().unwrap_or_default(),
    )
}

/// Name of the hypervisor by the traces it leaves.
///
/// * `cpuinfo`: on x86, the flag `hypervisor` (CPUID leaf 1, ECX bit 31).
/// * `kind`: `/sys/hypervisor/type` (Xen).
/// * `clocks`: the available clock sources; paravirtual ones name their maker.
/// * `product`: the machine's name; virtual machines of any architecture have one.
fn hypervisor(cpuinfo: &str, kind: Option<&str>, clocks: &str, product: &str) -> Option<String> {
    const CLOCKS: [(&str, &str); 4] = [
        ("kvm-clock", "KVM"),
        ("hyperv_clocksource", "Hyper-V"),
        ("vmware", "VMware"),
        ("xen", "Xen"),
    ];
    const PRODUCTS: [(&str, &str); 8] = [
        ("QEMU", "KVM or QEMU"),
        ("KVM", "KVM"),
        ("VMware", "VMware"),
        ("VirtualBox", "VirtualBox"),
        ("Microsoft Corporation Virtual Machine", "Hyper-V"),
        ("Google Compute Engine", "KVM"),
        ("Apple Virtualization", "Apple Virtualization"),
        ("Parallels", "Parallels"),
    ];
    let flags = field(cpuinfo, "flags"); // x86 only
    let flagged = flags.as_ref().map(|all| all.split(' ').any(|flag| flag == "hypervisor"));
    if flagged == Some(false) {
        return None;
    }
    let name = |text: &str, known: &[(&str, &'static str)]| {
        known.iter().find(|(trace, _)| text.contains(trace)).map(|&(_, name)| name)
    };
    let named = kind
        .map(|kind| if kind == "xen" { "Xen" } else { kind })
        .or_else(|| name(clocks, &CLOCKS))
        .or_else(|| name(product, &PRODUCTS));
    named.or_else(|| (flagged == Some(true)).then_some("unknown")).map(str::to_owned)
}

/// Names of the maker and of the product.
pub(super) fn product() -> Option<String> {
    let dmi = |name| read(format!("/sys/class/dmi/id/{name}"));
    match (dmi("sys_vendor"), dmi("product_name")) {
        (Some(vendor), Some(product)) => Some(format!("{vendor} {product}")),
        (vendor, product) => vendor.or(product),
    }
}

/// Setting of one digit: `1` is on and `0` off.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// True if a CPU may exceed its nominal frequency: cpufreq's `boost`, or the opposite of
/// `no_turbo` of Intel's driver.
pub(super) fn turbo_of_this_machine() -> Option<bool> {
    let boost = || flag(&read("/sys/devices/system/cpu/cpufreq/boost")?);
    let intel = || flag(&read("/sys/devices/system/cpu/intel_pstate/no_turbo")?).map(|no| !no);
    boost().or_else(intel)
}

/// Frequency governors in use, joined by commas; almost always one.
pub(super) fn governor_of_this_machine() -> Option<String> {
    let policies = fs::read_dir("/sys/devices/system/cpu/cpufreq").ok()?;
    let governors: BTreeSet<String> = policies
        .flatten()
        .filter_map(|policy| read(policy.path().join("scaling_governor")))
        .collect();
    let governors: Vec<String> = governors.into_iter().collect();
    (!governors.is_empty()).then(|| governors.join(","))
}

/// Mean of the CPUs' present frequencies, where the kernel can change them.
pub(super) fn frequency_mhz_of_this_machine() -> Option<f64> {
    let policies = fs::read_dir("/sys/devices/system/cpu/cpufreq").ok()?;
    let frequencies: Vec<f64> = policies
        .flatten()
        .filter_map(|policy| read(policy.path().join("scaling_cur_freq"))?.parse().ok())
        .collect();
    // The kernel gives kilohertz.
    let sum: f64 = frequencies.iter().sum();
    (!frequencies.is_empty()).then(|| sum / frequencies.len() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPYC: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
        model name\t: AMD EPYC\nstepping\t: 1\nflags\t\t: fpu avx f16c rdrand hypervisor lahf_lm\n\
        \nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
    const XEON: &str = "model name\t: Intel(R) Xeon(R) Gold 6230\nflags\t\t: fpu vme de pse lm\n";
    const GRAVITON: &str = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd evtstrm aes\n\
        CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\nCPU revision\t: 1\n";
    const POWER: &str = "processor\t: 0\ncpu\t\t: POWER9 (architected), altivec supported\n";

    #[test]
    fn fields_by_name() {
        let status = "Name:\tloadgen\nUmask:\t0022\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n\
                      Groups:\t \n";
        assert_eq!(field(status, "Cpus_allowed_list").as_deref(), Some("0-1"));
        assert_eq!(field(status, "Cpus_allowed").as_deref(), Some("3"));
        assert_eq!(field(status, "Groups"), None, "empty is absent");
        assert_eq!(field(status, "Cpus"), None, "a whole name, not its beginning");
    }

    #[test]
    fn models_of_four_architectures() {
        assert_eq!(model(EPYC).as_deref(), Some("AMD EPYC"));
        assert_eq!(model(XEON).as_deref(), Some("Intel(R) Xeon(R) Gold 6230"));
        assert_eq!(model(GRAVITON).as_deref(), Some("Arm implementer 0x41 part 0xd0c"));
        assert_eq!(model(POWER).as_deref(), Some("POWER9 (architected), altivec supported"));
        assert_eq!(model(""), None);
    }

    #[test]
    fn hypervisor_is_named_by_its_clock() {
        let found = hypervisor(EPYC, None, "tsc kvm-clock", "");
        assert_eq!(found.as_deref(), Some("KVM"));
        let found = hypervisor(EPYC, None, "tsc hyperv_clocksource_tsc_page acpi_pm", "");
        assert_eq!(found.as_deref(), Some("Hyper-V"));
        assert_eq!(hypervisor(EPYC, Some("xen"), "xen tsc", "").as_deref(), Some("Xen"));
    }

    #[test]
    fn hypervisor_is_named_by_its_product() {
        let found = hypervisor(GRAVITON, None, "arch_sys_counter", "QEMU KVM Virtual Machine");
        assert_eq!(found.as_deref(), Some("KVM or QEMU"));
        let found = hypervisor(EPYC, None, "tsc", "innotek GmbH VirtualBox");
        assert_eq!(found.as_deref(), Some("VirtualBox"));
    }

    #[test]
    fn hypervisor_without_a_name_is_unknown() {
        assert_eq!(hypervisor(EPYC, None, "tsc", "").as_deref(), Some("unknown"));
    }

    #[test]
    fn bare_metal_has_no_hypervisor() {
        assert_eq!(hypervisor(XEON, None, "tsc hpet acpi_pm", "Amazon EC2 m5.metal"), None);
        assert_eq!(hypervisor(GRAVITON, None, "arch_sys_counter", "Amazon EC2 a1.metal"), None);
    }

    #[test]
    fn flags_are_one_digit() {
        assert_eq!([flag("1"), flag("0"), flag("on")], [Some(true), Some(false), None]);
    }
}
