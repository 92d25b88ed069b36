//! What came of it, counted; and each violation, told when it happens.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What can be wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// Neither the old nor the new state, or a fault in it.
    Inconsistent,
    /// It ended with 0, and the state is not the new one.
    Untrue,
    Panic,
    /// An exit code that is not documented, or a death by signal.
    Code,
    /// Not exactly one error, or one without a path or the system's reason.
    Unclear,
    /// The next run does not succeed, or not in the new state.
    Retry,
    /// The next run leaves something behind.
    Litter,
}

/// The counts of one line of the table.
#[derive(Default)]
pub struct Counts {
    /// Calls that change something, in a run that is left alone.
    pub points: usize,
    pub runs: usize,
    wrong: BTreeMap<Wrong, usize>,
}

/// All lines, in the order in which they were begun.
#[derive(Default)]
pub struct Tally {
    lines: Vec<(String, Counts)>,
}

impl Tally {
    /// Begins a line, or goes on with one.
    pub fn begin(&mut self, line: &str, points: usize) {
        if let Some(found) = self.lines.iter().position(|(known, _)| known == line) {
            let found = self.lines.remove(found);
            return self.lines.push(found);
        }
        say(&format!("{line}: {points} calls"));
        self.lines.push((line.to_owned(), Counts { points, ..Counts::default() }));
    }

    pub fn ran(&mut self) {
        if let Some((_, counts)) = self.lines.last_mut() {
            counts.runs += 1;
        }
    }

    /// Counts what is wrong, and tells it.
    pub fn wrong(&mut self, wrong: Wrong, at: &str, what: &str) {
        let Some((line, counts)) = self.lines.last_mut() else { return };
        *counts.wrong.entry(wrong).or_default() += 1;
        say(&format!("VIOLATION {wrong:?}: {line}, {at}: {}", what.trim_end()));
    }

    pub fn is_clean(&self) -> bool {
        self.lines.iter().all(|(_, counts)| counts.wrong.is_empty())
    }

    /// The table, in Markdown, on stdout.
    pub fn print(&self) -> io::Result<()> {
        use Wrong::*;
        let columns = [Inconsistent, Untrue, Panic, Code, Unclear, Retry, Litter];
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "| what | calls | runs | inconsistent | exit 0 not kept | panics | wrong exit codes | unclear errors | retries failed | litter |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for (line, counts) in &self.lines {
            write!(out, "| {line} | {} | {} |", counts.points, counts.runs)?;
            for column in columns {
                write!(out, " {} |", counts.wrong.get(&column).unwrap_or(&0))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Progress and violations go to stderr, at once.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
