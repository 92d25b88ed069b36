//! The guest's side: kcache as the first process of a machine that exists for a few seconds.
//!
//! It loads each module to be tested, after what that needs, looks at what the kernel says and shows, unloads it, reports, and
//! reboots, which ends the machine. Each system call that runs a module's code is made by a process of its own: an oops kills
//! the process it happens in, and without the first process there is no machine to report from.
//!
//! The kernel asks for modules by itself, too (`request_module`: an algorithm, a protocol), and runs what it takes for modprobe.
//! Here that is this program again, which loads what the plan has for it, and notes what it has not: the host can then
//! plan better.
//!
//! After an oops nothing that the kernel does is worth reporting, so the machine ends there; another one tests the rest.

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
use super::plan::Step;
use super::report::{Ended, Event, Tested, kmsg_text};

/// Where a guest finds what it is to do. Its presence makes this process a guest's.
pub(super) const ORDERS: &str = "/boot-test.json";
/// Where a guest notes what the kernel has asked for in vain.
const REQUESTED: &str = "/requested";
/// Lines of the kernel's log that are kept of each module: a warning with its stack has some fifty.
const MOST_LINES: usize = 200;
/// The longest record of `/dev/kmsg` (PRINTK_MESSAGE_MAX, kernel/printk/internal.h) with its prefix.
const RECORD: usize = 8192;
/// What the kernel is tainted by after an oops.
const DIED: u64 = 1 << 7;

/// What a guest is to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Orders {
    /// The serial port to report on.
    pub report: String,
    /// What to load.
    pub steps: Vec<Step>,
    /// What to load when the kernel asks for it.
    pub answers: BTreeMap<String, Vec<usize>>,
}

impl Orders {
    fn read() -> io::Result<Orders> {
        Ok(serde_json::from_slice(&fs::read(ORDERS)?)?)
    }
}

/// Whether a process that was started by this name is one of a guest's.
pub fn is_guest(name: &str) -> bool {
    name == INIT && Path::new(ORDERS).exists()
}

/// A guest's process: the first one, or one that makes one system call.
pub fn run(arguments: &[String]) -> ExitCode {
    match arguments {
        [call, file, parameters] if call == "load" => answer(load(file, parameters)),
        [call, name] if call == "unload" => answer(unload(name)),
        // As the kernel calls modprobe (kernel/module/kmod.c).
        [quiet, end, name] if quiet == "-q" && end == "--" => answer(on_request(name)),
        _ => {
            let from = arguments.first().and_then(|from| from.parse().ok()).unwrap_or(0);
            // Where even the report cannot be written to there is nobody to tell.
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

/// Loads what the kernel asks for.
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

/// What was asked for in vain since the last time.
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

/// The errno as an exit code: they are all below 134.
fn answer(result: io::Result<()>) -> ExitCode {
    let errno = result.map_or_else(|e| e.raw_os_error().unwrap_or(1), |()| 0);
    ExitCode::from(errno as u8)
}

/// Has a process make a call.
fn call(arguments: &[&str]) -> io::Result<Ended> {
    let status = Command::new(INIT).args(arguments).status()?;
    Ok(match status.code() {
        Some(0) => Ended::Well,
        Some(errno) => Ended::Errno(errno),
        None => {
            debug_assert!(status.signal().is_some());
            Ended::Killed
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

fn test_all(steps: &[Step], from: usize, report: &mut Report) -> io::Result<()> {
    // From here on the console is told everything: it is what remains of a machine that hangs.
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
fn test(steps: &[Step], at: usize, step: &Step, log: &mut Log) -> io::Result<Tested> {
    let mut tested = Tested { step: at, tainted: (tainted()?, 0), ..Tested::default() };
    tested.lacking = load_needs(steps, step)?;
    if tested.lacking.is_none() {
        let start = Instant::now();
        tested.loading = Some(load_anew(step)?);
        tested.seconds = start.elapsed().as_secs_f64();
    }
    if tested.loading == Some(Ended::Well) {
        tested.listed = loaded()?.contains(&step.name);
        tested.taints = fs::read_to_string(format!("/sys/module/{}/taint", step.name)).unwrap_or_default();
        tested.unloading = Some(call(&["unload", &step.name])?);
    }
    tested.requested = requested()?;
    tested.log = log.lines()?;
    tested.tainted.1 = tainted()?;
    Ok(tested)
}

/// Loads a module, also one that is there because the kernel has asked for it.
fn load_anew(step: &Step) -> io::Result<Ended> {
    if loaded()?.contains(&step.name) && call(&["unload", &step.name])? != Ended::Well {
        return Ok(Ended::Well); // it was loaded, and is in use
    }
    call(&["load", &step.file, &step.parameters])
}

/// Loads what a step needs, as far as it is not there; gives what must be there and cannot be loaded.
fn load_needs(steps: &[Step], step: &Step) -> io::Result<Option<(usize, Ended)>> {
    let there = loaded()?;
    for need in &step.needs {
        let Some(needed) = steps.get(need.step).filter(|needed| !there.contains(&needed.name)) else {
            continue;
        };
        let ended = call(&["load", &needed.file, &needed.parameters])?;
        if ended != Ended::Well && !need.optional {
            return Ok(Some((need.step, ended)));
        }
    }
    Ok(None)
}

/// The modules that are loaded.
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

/// The kernel's log from now on.
struct Log(fs::File);

impl Log {
    fn open() -> io::Result<Log> {
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut file =
            fs::OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Log(file))
    }

    /// The lines since the last time; of too many the first ones.
    fn lines(&mut self) -> io::Result<Vec<String>> {
        // The kernel keeps a message without a newline back until there is another: here is one.
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
                // Records were overwritten before they were read; the next read gives the oldest that is left.
                Err(e) if e.kind() == ErrorKind::BrokenPipe || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
