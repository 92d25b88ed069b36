//! What came of it, counted; and each violation, told when it happens.
//!
//! The table has a row for each scenario and a column for each way of torturing. Several processes share the work; each prints
//! what it has counted as JSON, and the first one adds it up ([`Tally::add`]).

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// What can be wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

const WRONGS: [(Wrong, &str); 7] = [
    (Wrong::Inconsistent, "inconsistent"),
    (Wrong::Untrue, "exit 0 not kept"),
    (Wrong::Panic, "panics"),
    (Wrong::Code, "wrong exit codes"),
    (Wrong::Unclear, "unclear errors"),
    (Wrong::Retry, "failed retries"),
    (Wrong::Litter, "litter left"),
];

/// A way of torturing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Column {
    Kill,
    Errors,
    Ext4,
    Xfs,
    Btrfs,
    Pages,
    Inodes,
}

const COLUMNS: [(Column, &str); 7] = [
    (Column::Kill, "killed"),
    (Column::Errors, "errors"),
    (Column::Ext4, "power, ext4"),
    (Column::Xfs, "power, xfs"),
    (Column::Btrfs, "power, btrfs"),
    (Column::Pages, "no pages"),
    (Column::Inodes, "no inodes"),
];

/// The counts of one scenario, tortured in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    runs: usize,
    wrong: BTreeMap<Wrong, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    scenario: String,
    /// Calls that change something, in a run that is left alone.
    calls: usize,
    counts: BTreeMap<Column, Counts>,
}

/// All rows, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    rows: Vec<Row>,
    /// What is counted now.
    #[serde(skip)]
    at: (usize, Option<Column>),
}

impl Tally {
    /// Makes a row.
    pub fn row(&mut self, scenario: &str, calls: usize) {
        self.rows.push(Row { scenario: scenario.to_owned(), calls, counts: BTreeMap::new() });
    }

    /// What is counted from now on.
    pub fn begin(&mut self, scenario: &str, column: Column) {
        let row = self.rows.iter().position(|row| row.scenario == scenario).unwrap_or_default();
        self.at = (row, Some(column));
    }

    pub fn ran(&mut self) {
        if let Some(counts) = self.counts() {
            counts.runs += 1;
        }
    }

    /// Counts what is wrong, and tells it.
    pub fn wrong(&mut self, wrong: Wrong, at: &str, what: &str) {
        let Some(counts) = self.counts() else { return };
        *counts.wrong.entry(wrong).or_default() += 1;
        let (row, column) = self.at;
        let scenario = &self.rows[row].scenario;
        say(&format!("VIOLATION {wrong:?}: {column:?}, {scenario}, {at}: {}", what.trim_end()));
    }

    fn counts(&mut self) -> Option<&mut Counts> {
        let (row, column) = self.at;
        Some(self.rows.get_mut(row)?.counts.entry(column?).or_default())
    }

    pub fn is_clean(&self) -> bool {
        self.rows.iter().flat_map(|row| row.counts.values()).all(|counts| counts.wrong.is_empty())
    }

    /// Adds what another process has counted, of the same rows.
    pub fn add(&mut self, other: Tally) {
        for row in other.rows {
            let known = self.rows.iter().position(|known| known.scenario == row.scenario);
            let known = known.unwrap_or_else(|| {
                self.row(&row.scenario, row.calls);
                self.rows.len() - 1
            });
            for (column, counts) in row.counts {
                let sum = self.rows[known].counts.entry(column).or_default();
                sum.runs += counts.runs;
                counts.wrong.into_iter().for_each(|(wrong, n)| *sum.wrong.entry(wrong).or_default() += n);
            }
        }
    }

    /// For the process that adds it up.
    pub fn print_json(&self) -> io::Result<()> {
        serde_json::to_writer(io::stdout().lock(), self)?;
        Ok(())
    }

    /// The table, in Markdown, on stdout. A cell has the runs, and in brackets those in which something was wrong.
    pub fn print(&self) -> io::Result<()> {
        let used =
            |(column, _): &&(Column, &str)| self.rows.iter().any(|row| row.counts.contains_key(column));
        let columns: Vec<_> = COLUMNS.iter().filter(used).collect();
        let mut out = io::stdout().lock();
        let titles: String = columns.iter().map(|(_, title)| format!(" {title} |")).collect();
        writeln!(out, "| what | calls |{titles}")?;
        writeln!(out, "|---|--:|{}", "--:|".repeat(columns.len()))?;
        for row in &self.rows {
            let cells: String = columns.iter().map(|(column, _)| cell(row.counts.get(column))).collect();
            writeln!(out, "| {} | {} |{cells}", row.scenario, row.calls)?;
        }
        writeln!(out, "\n{}", self.sum())
    }

    fn sum(&self) -> String {
        let all = || self.rows.iter().flat_map(|row| row.counts.values());
        let runs: usize = all().map(|counts| counts.runs).sum();
        let count = |wrong: &Wrong| all().filter_map(|counts| counts.wrong.get(wrong)).sum::<usize>();
        let wrong: Vec<_> = WRONGS.iter().map(|(wrong, title)| format!("{} {title}", count(wrong))).collect();
        format!("{runs} runs: {}.", wrong.join(", "))
    }
}

fn cell(counts: Option<&Counts>) -> String {
    match counts {
        None => " |".to_owned(),
        Some(counts) if counts.wrong.is_empty() => format!(" {} |", counts.runs),
        Some(counts) => format!(" {} ({}) |", counts.runs, counts.wrong.values().max().unwrap_or(&0)),
    }
}

/// Progress and violations go to stderr, at once.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_have_counted_is_added_up() {
        let mut sum = Tally::default();
        for worker in 0..2 {
            let mut tally = Tally::default();
            tally.row("install", 7);
            tally.row("remove", 5);
            tally.begin("remove", Column::Kill);
            tally.ran();
            if worker == 1 {
                tally.wrong(Wrong::Litter, "call 3", "a file");
            }
            let text = serde_json::to_string(&tally).unwrap();
            sum.add(serde_json::from_str(&text).unwrap());
        }
        assert_eq!(sum.rows.len(), 2);
        assert_eq!(cell(sum.rows[1].counts.get(&Column::Kill)), " 2 (1) |");
        assert!(!sum.is_clean());
        assert!(sum.sum().starts_with("2 runs: 0 inconsistent") && sum.sum().ends_with("1 litter left."));
    }
}
