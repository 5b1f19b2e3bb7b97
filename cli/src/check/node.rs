//! This machine: what the kernel programs and the agent need of it.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use crate::check::cluster::release;
use crate::check::nodes::OLDEST_KERNEL;
use crate::check::report::Report;

/// Files of the kernel that are read at all are small, but for its configuration.
const MAX_FILE: u64 = 4 << 20;
/// The first two bytes of BTF, in the byte order of the machine.
const BTF_MAGIC: u16 = 0xeb9f;
/// Capabilities of the agent, by their bit.
const CAPABILITIES: [(&str, u32); 3] = [("BPF", 39), ("NET_ADMIN", 12), ("SYS_ADMIN", 21)];
/// Options of the kernel without which the programs do not load.
const OPTIONS: [&str; 5] = [
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_JIT",
    "CONFIG_CGROUP_BPF",
    "CONFIG_INET",
    "CONFIG_NET_NS",
];

pub(super) fn check(root: &Path, report: &mut Report) {
    let version = read("/proc/sys/kernel/osrelease".as_ref()).unwrap_or_default();
    kernel_line(version.trim(), report);
    btf(report);
    let mounts = read("/proc/1/mountinfo".as_ref()).or_else(|| read("/proc/self/mountinfo".as_ref()));
    mounted(&mounts.unwrap_or_default(), report);
    capabilities(&read("/proc/self/status".as_ref()).unwrap_or_default(), report);
    configuration(
        read(&root.join(format!("boot/config-{}", version.trim()))),
        report,
    );
    namespaces(&root.join("var/run/netns"), report);
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

fn kernel_line(version: &str, report: &mut Report) {
    match kernel(version) {
        None => report.ok("kernel", version),
        Some((detail, remedy)) => report.fail("kernel", detail, remedy),
    }
}

/// What is wrong with the kernel, and what to do.
pub(super) fn kernel(version: &str) -> Option<(String, &'static str)> {
    if release(version).is_some_and(|release| release >= OLDEST_KERNEL) {
        return None;
    }
    let detail = format!(
        "{version:?}, but {}.{} is needed",
        OLDEST_KERNEL.0, OLDEST_KERNEL.1
    );
    let remedy = "upgrade the kernel; the agent refuses an older one, and the node stays as it is";
    Some((detail, remedy))
}

fn btf(report: &mut Report) {
    let mut magic = [0; 2];
    let opened = fs::File::open("/sys/kernel/btf/vmlinux").and_then(|mut file| file.read_exact(&mut magic));
    if opened.is_ok() && u16::from_ne_bytes(magic) == BTF_MAGIC {
        report.ok("BTF", "/sys/kernel/btf/vmlinux");
    } else {
        let (detail, remedy) = btf_missing();
        report.warn("BTF", detail, remedy);
    }
}

/// The programs read stable contexts only, and are not fitted to the kernel's types.
pub(super) fn btf_missing() -> (&'static str, &'static str) {
    let detail =
        "/sys/kernel/btf/vmlinux is not here; the agent does without it, on a kernel that nobody tried";
    let remedy = "prefer a kernel with CONFIG_DEBUG_INFO_BTF; those of distributions have it";
    (detail, remedy)
}

/// The lines of mountinfo: `… ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE …`.
fn mounted(mountinfo: &str, report: &mut Report) {
    let of_type = |wanted: &str| {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next()? == wanted).then(|| before.split(' ').nth(4))?
        })
    };
    match of_type("cgroup2") {
        Some("/sys/fs/cgroup") => report.ok("cgroup v2", "/sys/fs/cgroup"),
        Some(place) => report.warn(
            "cgroup v2",
            format!("is mounted at {place}, beside v1"),
            format!("install with --set agent.cgroup.root={place}"),
        ),
        None => report.fail(
            "cgroup v2",
            "is not mounted",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
    match of_type("bpf") {
        Some(place) => report.ok("bpffs", place),
        None => report.fail(
            "bpffs",
            "is not mounted",
            "mount it at every boot: `mount -t bpf bpf /sys/fs/bpf`",
        ),
    }
}

fn capabilities(status: &str, report: &mut Report) {
    let missing = lacking(status);
    if missing.is_empty() {
        report.ok("capabilities", "this process has those of the agent");
    } else {
        let remedy =
            "run this as root; if the agent's own pod lacks them, an admission policy takes them away";
        report.warn(
            "capabilities",
            format!("this process lacks {}", missing.join(", ")),
            remedy,
        );
    }
}

/// Which of the agent's capabilities are not among those of the line `CapEff`.
pub(super) fn lacking(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(_, bit)| bits & (1 << bit) == 0);
    missing.map(|(name, _)| *name).collect()
}

fn configuration(text: Option<String>, report: &mut Report) {
    let Some(text) = text else {
        report.warn(
            "kernel configuration",
            "cannot be read below /boot",
            "if the agent starts, all is well; its log names what is missing",
        );
        return;
    };
    let is_set = |option: &&str| {
        text.lines()
            .any(|line| line.strip_prefix(*option).is_some_and(|rest| rest == "=y"))
    };
    let missing: Vec<&str> = OPTIONS.into_iter().filter(|option| !is_set(option)).collect();
    if missing.is_empty() {
        report.ok("kernel configuration", "has what the programs need");
    } else {
        report.fail(
            "kernel configuration",
            format!("lacks {}", missing.join(", ")),
            "use a kernel that has these",
        );
    }
}

fn namespaces(folder: &Path, report: &mut Report) {
    if folder.is_dir() {
        report.ok("pods' network namespaces", folder.display().to_string());
    } else {
        let remedy = "install with --set agent.podNetnsDir=FOLDER where the container runtime keeps them elsewhere; on a node without pods it is normal";
        report.warn(
            "pods' network namespaces",
            format!("{} is not here", folder.display()),
            remedy,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(check: impl Fn(&mut Report)) -> String {
        let mut report = Report::default();
        check(&mut report);
        let marks = report.lines.iter().map(|line| {
            line.to_string()
                .split_whitespace()
                .next()
                .unwrap_or("")
                .to_owned()
        });
        marks.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let unified = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n36 25 0:31 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert_eq!(lines(|r| mounted(unified, r)), "ok ok");
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n";
        assert_eq!(lines(|r| mounted(hybrid, r)), "warn FAIL");
        assert_eq!(lines(|r| mounted("", r)), "FAIL FAIL");
    }

    #[test]
    fn capabilities_and_options_are_named() {
        assert_eq!(
            lines(|r| capabilities("Name: x\nCapEff:\t000001ffffffffff\n", r)),
            "ok"
        );
        assert_eq!(lines(|r| capabilities("CapEff:\t0000000000000000\n", r)), "warn");
        let all = OPTIONS.map(|option| format!("{option}=y\n")).concat();
        assert_eq!(lines(|r| configuration(Some(all.clone()), r)), "ok");
        assert_eq!(
            lines(|r| configuration(Some("# CONFIG_BPF_SYSCALL is not set".to_owned()), r)),
            "FAIL"
        );
        assert_eq!(lines(|r| configuration(None, r)), "warn");
    }
}
