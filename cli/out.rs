//! The one writer. stdout is data, stderr is conversation; while progress bars are drawn, lines go above them.

use std::io::Write;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use indicatif::MultiProgress;

use crate::args::{Color, Global};
use crate::exit::Failure;

/// Writes what a run has to say.
#[derive(Debug, Default)]
pub struct Out {
    /// Results are JSON.
    pub json: bool,
    /// Results and errors only.
    pub quiet: bool,
    /// How much detail.
    pub verbose: u8,
    bars: OnceLock<MultiProgress>,
}

/// A style for each kind of word.
pub const PLAIN: Style = Style::new();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const ODD: Style = AnsiColor::Yellow.on_default();
const HINT: Style = AnsiColor::Cyan.on_default();

impl Out {
    pub fn new(global: &Global) -> Out {
        let choice = match global.color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Out { json: global.json, quiet: global.quiet, verbose: global.verbose, bars: OnceLock::new() }
    }

    /// From now on bars are drawn by these.
    pub fn draw_with(&self, bars: MultiProgress) {
        let _ = self.bars.set(bars); // a second session in one process keeps the first one's
    }

    /// A line of results.
    pub fn data(&self, line: &str) {
        self.above_bars(|| {
            // Who stopped reading (`| head`) has seen enough; that is no error.
            let _ = writeln!(anstream::stdout().lock(), "{line}");
        });
    }

    /// Bytes of results as they are.
    pub fn raw(&self, bytes: &[u8]) {
        let _ = std::io::stdout().lock().write_all(bytes);
    }

    /// A JSON record: one line.
    pub fn record(&self, record: &impl serde::Serialize) {
        if let Ok(line) = serde_json::to_string(record) {
            self.data(&line);
        }
    }

    /// A JSON document.
    pub fn document(&self, document: &impl serde::Serialize) {
        if let Ok(text) = serde_json::to_string_pretty(document) {
            self.data(&text);
        }
    }

    /// A line of conversation. `warning:` and `hint:` at its beginning are coloured.
    pub fn say(&self, line: &str) {
        let styled = [("warning:", ODD), ("hint:", HINT), ("error:", BAD)]
            .iter()
            .find_map(|(word, style)| Some(format!("{style}{word}{style:#}{}", line.strip_prefix(word)?)));
        if !self.quiet || line.starts_with("warning:") {
            self.err(styled.as_deref().unwrap_or(line));
        }
    }

    /// A line that only `-v` shows.
    pub fn detail(&self, line: &str) {
        if self.verbose > 0 {
            self.err(line);
        }
    }

    /// An error and what to do about it.
    pub fn failure(&self, failure: &Failure) {
        self.err(&format!("{BAD}error:{BAD:#} {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.err(&format!("{HINT}hint:{HINT:#} {hint}"));
        }
    }

    fn err(&self, line: &str) {
        self.above_bars(|| {
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        });
    }

    fn above_bars(&self, write: impl FnOnce()) {
        match self.bars.get() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

/// A word of a table, and its colour.
pub type Cell = (String, Style);

/// Rows as columns, two spaces between them, the last one as long as it is. Colours take no room.
pub fn columns(rows: &[Vec<Cell>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|(word, _)| word.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<Cell>| {
        let last = row.iter().rposition(|(word, _)| !word.is_empty());
        let cell = |(at, (word, style)): (usize, &Cell)| {
            let room = if Some(at) < last { widths[at] + 2 - word.chars().count() } else { 0 };
            format!("{}{:room$}", paint(*style, word), "")
        };
        row.iter().take(last.map_or(0, |last| last + 1)).enumerate().map(cell).collect::<String>()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A word in a colour.
pub fn paint(style: Style, word: &str) -> String {
    format!("{style}{word}{style:#}")
}
