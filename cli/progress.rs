//! What is going on: bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kcache::fetch::size;
use kcache::world::Progress;

use crate::out::Out;

/// Progress of one run.
pub struct Reporter {
    out: Arc<Out>,
    bars: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Reporter {
    pub fn new(out: Arc<Out>) -> Reporter {
        let drawn = std::io::stderr().is_terminal() && !out.quiet && !out.json && out.verbose < 2;
        let bars = drawn.then(MultiProgress::new);
        if let Some(bars) = &bars {
            out.draw_with(bars.clone());
        }
        Reporter { out, bars, running: Mutex::default() }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Progress for Reporter {
    fn say(&self, message: &str) {
        self.out.say(message);
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
                self.out.say(&format!("{doing} {what}"))
            };
        };
        let bar = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix}  {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{doing} {what}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        self.running().insert(what.to_owned(), bar);
    }

    fn line(&self, what: &str, line: &str) {
        if self.out.verbose > 1 {
            return self.out.detail(line);
        }
        if let Some(bar) = self.running().get(what) {
            bar.set_message(line.trim().to_owned());
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
}
