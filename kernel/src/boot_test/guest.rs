//! The guest's side of a boot test: kcache as the first process of a disposable virtual machine.
//!
//! It loads each module to be tested after its dependencies, checks the kernel's log and state, unloads the module,
//! reports, and reboots, which ends the machine. Each system call that runs a module's code is made by a separate
//! process: an oops kills the process in which it happens, and without the first process the machine could not report.
//!
//! The kernel also requests modules itself (`request_module`: an algorithm, a protocol) by running its modprobe
//! program. Here that is kcache again, which loads what the plan has for the request, and records what it does not
//! have, so that the host can complete the plan.
//!
//! After an oops nothing that the kernel does is meaningful, so the machine ends there; another one tests the other
//! modules.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, delete_module, finit_module, reboot, uname};
use serde::{Deserialize, Serialize};

use super::INIT;
use super::plan::LoadStep;
use super::report::{Event, GuestEnd, Tested, kmsg_text};

/// Path of a guest's orders. If it exists, this process runs in a guest.
pub(super) const ORDERS: &str = "/boot-test.json";
/// File in which a guest records requests of the kernel that it could not answer.
const REQUESTED: &str = "/requested";
/// Lines of the kernel's log to keep for each module. A warning with its stack has some fifty.
const MOST_LINES: usize = 200;
/// Size of the largest record of `/dev/kmsg` with its prefix (PRINTK_MESSAGE_MAX, kernel/printk/internal.h).
const RECORD: usize = 8192;
/// TAINT_DIE (include/linux/panic.h): the kernel has oopsed.
const DIED: u64 = 1 << 7;

/// Orders for a guest.
#[derive(Serialize, Deserialize)]
pub(super) struct Orders {
    /// Path of the serial port to report on.
    pub report: String,
    /// Steps of the plan.
    pub steps: Vec<LoadStep>,
    /// Steps that answer the kernel's requests, by requested name.
    pub answers: BTreeMap<String, Vec<usize>>,
}

impl Orders {
    fn read() -> io::Result<Orders> {
        Ok(serde_json::from_slice(&fs::read(ORDERS)?)?)
    }
}

/// Whether a process started under this name belongs to a guest.
pub fn is_guest(name: &str) -> bool {
    name == INIT && Path::new(ORDERS).exists()
}

/// Runs one of a guest's processes: the first one, or one that makes one system call.
pub fn run(arguments: &[String]) -> ExitCode {
    match arguments {
        [call, file, parameters] if call == "load" => answer(load(file, parameters)),
        [call, name] if call == "unload" => answer(unload(name)),
        // Arguments as the kernel passes them to modprobe (kernel/module/kmod.c).
        [quiet, end, name] if quiet == "-q" && end == "--" => answer(on_request(name)),
        _ => {
            let from = arguments.first().and_then(|from| from.parse().ok()).unwrap_or(0);
            // If the report cannot be written either, there is nothing left to do.
            let _ = work(from);
            let _ = reboot(RebootCommand::Restart);
            ExitCode::FAILURE
        }
    }
}

fn load(file: &str, parameters: &str) -> io::Result<()> {
    let file = fs::File::open(file)?;
    Ok(finit_module(&file, &CString::new(parameters)?, 0)?)
}

fn unload(name: &str) -> io::Result<()> {
    Ok(delete_module(&CString::new(name)?, OFlags::NONBLOCK.bits() as i32)?)
}

/// Loads what the kernel requests.
fn on_request(name: &str) -> io::Result<()> {
    let orders = Orders::read()?;
    let Some(steps) = orders.answers.get(name).filter(|steps| !steps.is_empty()) else {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(REQUESTED)?;
        file.write_all(format!("{name}\n").as_bytes())?;
        return Err(ErrorKind::NotFound.into());
    };
    for step in steps.iter().filter_map(|&at| orders.steps.get(at)) {
        load_needs(&orders.steps, step)?;
        call(&["load", &step.file, &step.parameters])?;
    }
    Ok(())
}

/// Requests that were not answered since the last call.
fn requested() -> io::Result<Vec<String>> {
    match fs::read_to_string(REQUESTED) {
        Ok(text) => {
            fs::remove_file(REQUESTED)?;
            Ok(text.lines().map(str::to_owned).collect())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Returns an errno as the exit code: all are below 134.
fn answer(result: io::Result<()>) -> ExitCode {
    let errno = result.map_or_else(|e| e.raw_os_error().unwrap_or(1), |()| 0);
    ExitCode::from(errno as u8)
}

/// Makes a system call in another process.
fn call(arguments: &[&str]) -> io::Result<GuestEnd> {
    let status = Command::new(INIT).args(arguments).status()?;
    Ok(match status.code() {
        Some(0) => GuestEnd::Well,
        Some(errno) => GuestEnd::Errno(errno),
        None => {
            debug_assert!(status.signal().is_some());
            GuestEnd::Killed
        }
    })
}

fn work(from: usize) -> io::Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, at, kind, MountFlags::empty(), None)?;
    }
    let orders = Orders::read()?;
    let mut report = Report(fs::OpenOptions::new().write(true).open(&orders.report)?);
    let release = uname().release().to_string_lossy().into_owned();
    report.send(&Event::Ready { release })?;
    let told = test_all(&orders.steps, from, &mut report);
    if let Err(error) = told {
        report.send(&Event::Trouble { what: error.to_string() })?;
    }
    Ok(())
}

fn test_all(steps: &[LoadStep], from: usize, report: &mut Report) -> io::Result<()> {
    // From here on the console gets all messages: nothing else remains of a machine that hangs.
    fs::write("/proc/sys/kernel/printk", "8")?;
    fs::write("/proc/sys/kernel/modprobe", INIT)?;
    let mut log = Log::open()?;
    for (at, step) in steps.iter().enumerate().skip(from).filter(|(_, step)| step.tested.is_some()) {
        report.send(&Event::Testing { step: at })?;
        let tested = test(steps, at, step, &mut log)?;
        let died = tested.tainted.1 & DIED != 0;
        report.send(&Event::Tested(tested))?;
        if died {
            break;
        }
    }
    Ok(())
}

/// Loads a module and unloads it.
fn test(steps: &[LoadStep], at: usize, step: &LoadStep, log: &mut Log) -> io::Result<Tested> {
    let mut tested = Tested { step: at, tainted: (tainted()?, 0), ..Tested::default() };
    tested.lacking = load_needs(steps, step)?;
    if tested.lacking.is_none() {
        let start = Instant::now();
        tested.loading = Some(load_anew(step)?);
        tested.seconds = start.elapsed().as_secs_f64();
    }
    if tested.loading == Some(GuestEnd::Well) {
        tested.listed = loaded()?.contains(&step.name);
        tested.taints = fs::read_to_string(format!("/sys/module/{}/taint", step.name)).unwrap_or_default();
        tested.unloading = Some(call(&["unload", &step.name])?);
    }
    tested.requested = requested()?;
    tested.log = log.lines()?;
    tested.tainted.1 = tainted()?;
    Ok(tested)
}

/// Loads a module. One that is already loaded because the kernel requested it is unloaded first.
fn load_anew(step: &LoadStep) -> io::Result<GuestEnd> {
    if loaded()?.contains(&step.name) && call(&["unload", &step.name])? != GuestEnd::Well {
        return Ok(GuestEnd::Well); // it was loaded, and is in use
    }
    call(&["load", &step.file, &step.parameters])
}

/// Loads the dependencies of a step that are not loaded; returns a required one that fails to load.
fn load_needs(steps: &[LoadStep], step: &LoadStep) -> io::Result<Option<(usize, GuestEnd)>> {
    let there = loaded()?;
    for need in &step.needs {
        let Some(needed) = steps.get(need.step).filter(|needed| !there.contains(&needed.name)) else {
            continue;
        };
        let ended = call(&["load", &needed.file, &needed.parameters])?;
        if ended != GuestEnd::Well && !need.optional {
            return Ok(Some((need.step, ended)));
        }
    }
    Ok(None)
}

/// Names of the loaded modules.
fn loaded() -> io::Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/modules")?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn tainted() -> io::Result<u64> {
    Ok(fs::read_to_string("/proc/sys/kernel/tainted")?.trim().parse().unwrap_or(0))
}

struct Report(fs::File);

impl Report {
    fn send(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// The kernel's log from the time of opening.
struct Log(fs::File);

impl Log {
    fn open() -> io::Result<Log> {
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut file =
            fs::OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Log(file))
    }

    /// The lines since the last call, at most the first [`MOST_LINES`].
    fn lines(&mut self) -> io::Result<Vec<String>> {
        // The kernel holds a message without a newline back until there is another one, so print one.
        self.0.write_all(b"boot-test\n")?;
        let mut lines = Vec::new();
        let mut record = [0; RECORD];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    lines.extend(kmsg_text(&record).filter(|_| lines.len() < MOST_LINES).map(str::to_owned));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // EPIPE: records were overwritten before they were read; the next read returns the oldest that is
                // left.
                Err(e) if e.kind() == ErrorKind::BrokenPipe || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
