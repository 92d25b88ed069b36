//! Progress: bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kcache::run::progress::{Outlook, Progress, size};

use crate::out::Out;
use crate::screen::{self, Screen};
use crate::visible::visible;

/// Characters of a line beyond which options are left out.
const LONG: usize = 120;

/// Prints messages, and draws a bar for each task on a terminal.
pub struct Reporter {
    out: Arc<Out>,
    bars: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, ProgressBar>>,
    /// What is left besides the builds that have begun; of one build alone there is none.
    outlook: Mutex<Option<Outlook>>,
    /// The line that says so, below the bars.
    rest: Mutex<Option<ProgressBar>>,
}

impl Reporter {
    pub fn new(out: Arc<Out>) -> Reporter {
        let variable = |name: &str| std::env::var(name).ok();
        let drawn = screen::is_drawn_on(&variable) && !out.quiet && !out.json && out.verbose < 2;
        let target = || ProgressDrawTarget::term_like(Box::new(Screen::default()));
        let bars = drawn.then(|| MultiProgress::with_draw_target(target()));
        if let Some(bars) = &bars {
            out.draw_with(bars.clone());
        }
        Reporter { out, bars, running: Mutex::default(), outlook: Mutex::default(), rest: Mutex::default() }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.rest.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is left besides the builds that have begun, where there is more than those.
    fn left(&self) -> Option<String> {
        let outlook = self.outlook.lock().unwrap_or_else(|e| e.into_inner());
        let Outlook { waiting, left } = outlook.filter(|outlook| outlook.waiting > 0)?;
        Some(format!("{waiting} more waiting, about {} left", about(left)))
    }
}

impl Progress for Reporter {
    fn print(&self, message: &str) {
        self.out.print(message);
    }

    fn warn(&self, message: &str) {
        self.out.warn(message);
    }

    fn hint(&self, message: &str) {
        self.out.hint(message);
    }

    fn detail(&self, message: &str) {
        self.out.detail(message);
    }

    fn begin(&self, what: &str, doing: &str) {
        let Some(bars) = &self.bars else {
            // A look-up in a shared cache is worth a line when it was of use.
            return if doing == "fetching" {
                self.out.detail(&format!("{doing} {what}"))
            } else {
                let left = self.left().map_or(String::new(), |left| format!(" ({left})"));
                self.out.print(&format!("{doing} {what}{left}"))
            };
        };
        let bar = ProgressBar::new_spinner();
        let bar = match &*self.rest() {
            Some(rest) => bars.insert_before(rest, bar),
            None => bars.add(bar),
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix}  {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(visible(&format!("{doing} {what}")).into_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.running().insert(what.to_owned(), bar);
    }

    fn line(&self, what: &str, line: &str) {
        if self.out.verbose > 1 {
            return self.out.detail(line);
        }
        if let (Some(bar), Some(line)) = (self.running().get(what), shortened(line)) {
            bar.set_message(visible(&line).into_owned());
        }
    }

    fn heard(&self, what: &str, bytes: u64) {
        if let Some(bar) = self.running().get(what) {
            bar.inc(bytes);
            bar.set_message(size(bar.position()));
        }
    }

    fn end(&self, what: &str) {
        if let Some(bar) = self.running().remove(what) {
            bar.finish_and_clear();
        }
    }

    fn outlook(&self, outlook: &Outlook) {
        *self.outlook.lock().unwrap_or_else(|e| e.into_inner()) = Some(*outlook);
        let Some(bars) = &self.bars else { return };
        let mut rest = self.rest();
        match self.left() {
            Some(left) => {
                let bar = rest.get_or_insert_with(|| bars.add(ProgressBar::new_spinner()));
                if let Ok(style) = ProgressStyle::with_template("       {wide_msg}") {
                    bar.set_style(style);
                }
                bar.set_message(left);
            }
            None => {
                if let Some(bar) = rest.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

/// A line of a build's log as a bar shows it, which has little room: files by their names without directories, long commands
/// without options. `None` of a line that says only in which directory make is.
fn shortened(line: &str) -> Option<String> {
    if line.contains(": Entering directory ") || line.contains(": Leaving directory ") {
        return None;
    }
    let is_long = line.chars().count() > LONG;
    let words = line.split(' ').filter(|word| !is_long || !word.starts_with('-'));
    let name = |word: &str| match word.trim_end_matches('/').rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => word.to_owned(),
    };
    let line = words.map(name).collect::<Vec<_>>().join(" ");
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// Seconds below two minutes, minutes below two hours; an estimate has no more digits.
fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..20 => format!("{} s", seconds.max(1)),
        seconds @ 20..120 => format!("{} s", seconds.next_multiple_of(10)),
        seconds @ 120..7200 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_file_and_not_its_directory() {
        let check = |line: &str, expect: Option<&str>| assert_eq!(shortened(line).as_deref(), expect);
        check("  CC [M]  /var/lib/dkms/zfs/2.1.11/build/module/zfs/arc.o", Some("CC [M]  arc.o"));
        check("  CLEAN   module/zfs/", Some("CLEAN   zfs"));
        check("make[1]: Entering directory '/usr/src/linux-headers-6.1'", None);
        check("make[1]: Leaving directory '/usr/src/linux-headers-6.1'", None);
        check("checking for gcc -O2... yes", Some("checking for gcc -O2... yes"));
        check("   ", None);
        let command =
            format!("gcc-12 -Wp,-MMD,/x/.arc.o.d {} -c -o /x/zfs/arc.o /x/zfs/arc.c", "-O2 ".repeat(40));
        check(&command, Some("gcc-12  arc.o arc.c"));
    }

    #[test]
    fn an_estimate_is_a_round_number() {
        let check = |seconds, expect: &str| assert_eq!(about(Duration::from_secs(seconds)), expect);
        check(0, "1 s");
        check(7, "7 s");
        check(41, "50 s");
        check(119, "120 s");
        check(150, "3 min");
        check(3599, "60 min");
        check(10000, "3 h");
    }
}
