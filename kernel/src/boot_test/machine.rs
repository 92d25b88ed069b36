//! Virtual machines: which one boots kernels of which architecture, and QEMU's arguments.
//!
//! A machine has no disk, no network, and no files of this host but three. Its first serial port is the console; the
//! guest reports on the second.

use std::ffi::OsString;
use std::time::Duration;

/// Minimum memory of a guest in MiB. Debian's kernels use some 150.
const LEAST_MEMORY: u64 = 512;
/// MiB for the kernel and its modules, in addition to the initramfs and its unpacked files.
const FOR_THE_KERNEL: u64 = 320;
/// MiB of translated code that QEMU keeps when emulating. Its default may be 1 GiB; booting uses less than a tenth.
const TRANSLATED: u64 = 128;

/// The machine for kernels of one architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct VirtualMachine {
    /// The architecture as `uname -m` prints it.
    pub arch: &'static str,
    /// Name of the QEMU program.
    pub program: &'static str,
    /// The distributions' package with that program.
    pub package: &'static str,
    /// Value of `-M`: a machine with ACPI, PCI and two serial ports, which drivers look for.
    model: &'static str,
    /// Value of `-cpu` when emulating. Five levels of page tables, which nothing here needs, would make page walks
    /// more expensive.
    emulated_cpu: &'static str,
    /// Kernel parameters for a console from the first moment on, and for an end that QEMU notices.
    parameters: &'static str,
    /// The guest's name of the second serial port.
    pub(super) report: &'static str,
}

/// A row for each architecture. A new one needs names of its serial ports and a parameter for early messages.
static MACHINES: [VirtualMachine; 1] = [VirtualMachine {
    arch: "x86_64",
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    model: "q35",
    emulated_cpu: "max,la57=off",
    parameters: "earlyprintk=ttyS0,115200 console=ttyS0,115200 reboot=t",
    report: "/dev/ttyS1",
}];

/// The machine for an architecture as `uname -m` prints it.
pub fn of_arch(arch: &str) -> Option<&'static VirtualMachine> {
    MACHINES.iter().find(|machine| machine.arch == arch)
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// This machine's CPU, through KVM.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

impl Acceleration {
    /// QEMU's name for it.
    pub fn word(self) -> &'static str {
        match self {
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "tcg",
        }
    }

    /// Limits on the time until the first output and until the guest is ready; `None` for no limit but that of the
    /// whole test. With a working KVM, a kernel prints within half a second and is ready within two; a hanging KVM
    /// must cost little, and misjudging a slow one costs only the same time again, under emulation.
    pub(super) fn patience(self) -> Option<Patience> {
        match self {
            Acceleration::Kvm => {
                Some(Patience { sign: Duration::from_secs(3), ready: Duration::from_secs(12) })
            }
            Acceleration::Tcg => None,
        }
    }
}

/// Time limits for starting a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until its first output.
    pub sign: Duration,
    /// Until its first process runs.
    pub ready: Duration,
}

/// Properties of one guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub acceleration: Acceleration,
    /// Whether QEMU runs with its seccomp filter.
    pub seccomp: bool,
    /// Memory in MiB.
    pub memory: u64,
    /// Whether the kernel loads signed modules only.
    pub sig_enforce: bool,
    /// First step of the plan to test.
    pub from: usize,
}

const SECCOMP: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The three files that QEMU gets, all in its working directory: the image, the initramfs, and a named pipe for the
/// report.
pub(super) const IMAGE: &str = "image";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const REPORT: &str = "report";

/// Memory in MiB for a guest with an initramfs of this many bytes: it exists twice while it is unpacked, and tmpfs
/// uses at most half of the memory.
pub(super) fn memory(initramfs: u64) -> u64 {
    LEAST_MEMORY.max(FOR_THE_KERNEL + 3 * initramfs.div_ceil(1 << 20))
}

impl VirtualMachine {
    /// Arguments for QEMU.
    pub(super) fn arguments(&self, guest: &Guest) -> Vec<OsString> {
        let accelerator = match guest.acceleration {
            Acceleration::Kvm => "kvm".to_owned(),
            Acceleration::Tcg => format!("tcg,tb-size={TRANSLATED}"),
        };
        let cpu = match guest.acceleration {
            Acceleration::Kvm => "host",
            Acceleration::Tcg => self.emulated_cpu,
        };
        let memory = format!("{}M", guest.memory);
        // A file rather than a "pipe", because QEMU would also read from that.
        let report = format!("file,id=report,path={REPORT}");
        let append = self.append(guest);
        let arguments = [
            // Nothing implicit: no configuration of this host, no default devices, no display, no network.
            ["-no-user-config", "-nodefaults"].as_slice(),
            &["-display", "none", "-nic", "none", "-monitor", "none"],
            // QEMU must not start programs or change its user.
            if guest.seccomp { &["-sandbox", SECCOMP] } else { &[] },
            &["-M", self.model, "-accel", &accelerator, "-cpu", cpu, "-smp", "1", "-m", &memory],
            &["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
            &["-chardev", &report, "-serial", "chardev:report"],
            // The guest's reboot ends QEMU.
            &["-no-reboot"],
            &["-kernel", IMAGE, "-initrd", INITRAMFS, "-append", &append],
        ];
        arguments.concat().into_iter().map(OsString::from).collect()
    }

    /// The kernel's command line. Words after `--` become arguments of its first process.
    fn append(&self, guest: &Guest) -> String {
        let enforce = if guest.sig_enforce { " module.sig_enforce=1" } else { "" };
        format!("{} quiet panic=-1 rdinit={}{enforce} -- {}", self.parameters, super::INIT, guest.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(acceleration: Acceleration, sig_enforce: bool) -> String {
        let guest = Guest { acceleration, seccomp: true, memory: 512, sig_enforce, from: 3 };
        let arguments = of_arch("x86_64").unwrap().arguments(&guest);
        arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_guest_has_no_disk_network_or_display() {
        let line = line(Acceleration::Tcg, false);
        for words in ["-nodefaults", "-no-user-config", "-nic none", "-sandbox on", "-no-reboot", "-m 512M"] {
            assert!(line.contains(words), "{words} in {line}");
        }
        for words in ["-drive", "-netdev", "-virtfs", "-device", "-fsdev"] {
            assert!(!line.contains(words), "{words} in {line}");
        }
    }

    #[test]
    fn signatures_are_enforced_on_request() {
        assert!(!line(Acceleration::Tcg, false).contains("sig_enforce"));
        assert!(line(Acceleration::Tcg, true).contains(" module.sig_enforce=1 -- 3"));
    }

    #[test]
    fn emulation_and_acceleration_have_their_own_cpu() {
        assert!(line(Acceleration::Kvm, false).contains("-accel kvm -cpu host"));
        assert!(line(Acceleration::Tcg, false).contains("-accel tcg,tb-size=128 -cpu max,la57=off"));
    }

    #[test]
    fn memory_grows_with_the_initramfs() {
        assert_eq!(memory(20 << 20), 512);
        assert_eq!(memory(100 << 20), 620);
    }

    #[test]
    fn an_unknown_architecture_has_no_machine() {
        assert_eq!(of_arch("pdp11"), None);
    }
}
