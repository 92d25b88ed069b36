//! The one writer. stdout is data, stderr is conversation; while progress bars are drawn, lines go above them.

use std::io::Write;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use indicatif::MultiProgress;

use crate::args::{Color, Global};
use crate::exit::Failure;
use crate::journal::{Journal, Priority};

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
    journal: OnceLock<Journal>,
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
        Out { json: global.json, quiet: global.quiet, verbose: global.verbose, ..Out::default() }
    }

    /// From now on bars are drawn by these.
    pub fn draw_with(&self, bars: MultiProgress) {
        let _ = self.bars.set(bars); // a second session in one process keeps the first one's
    }

    /// From now on everything goes to the journal too.
    pub fn tell_journal(&self, journal: Journal) {
        let _ = self.journal.set(journal);
    }

    /// A line of results.
    pub fn data(&self, line: &str) {
        self.journal(Priority::Info, line);
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
        let priority = if line.starts_with("warning:") { Priority::Warning } else { Priority::Info };
        self.journal(priority, line);
        if !self.quiet || line.starts_with("warning:") {
            self.err(styled.as_deref().unwrap_or(line));
        }
    }

    /// A line that only `-v` shows.
    pub fn detail(&self, line: &str) {
        self.journal(Priority::Debug, line);
        if self.verbose > 0 {
            self.err(line);
        }
    }

    /// An error and what to do about it.
    pub fn failure(&self, failure: &Failure) {
        self.journal(Priority::Error, &failure.message);
        if let Some(hint) = &failure.hint {
            self.journal(Priority::Notice, &format!("hint: {hint}"));
        }
        self.err(&format!("{BAD}error:{BAD:#} {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.err(&format!("{HINT}hint:{HINT:#} {hint}"));
        }
    }

    fn journal(&self, priority: Priority, line: &str) {
        if let Some(journal) = self.journal.get() {
            journal.send(priority, &anstream::adapter::strip_str(line).to_string());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn the_journal_gets_every_line_without_colours_and_as_grave_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let journald = std::os::unix::net::UnixDatagram::bind(dir.path().join("socket")).unwrap();
        journald.set_nonblocking(true).unwrap();
        let out = Out { quiet: true, ..Out::default() };
        out.tell_journal(Journal::at(&dir.path().join("socket")).unwrap());
        out.data(&paint(GOOD, "ready"));
        out.say("warning: not ready");
        out.detail("only with -v");
        out.failure(&Failure {
            exit: Exit::Unexpected,
            message: "no disk".into(),
            hint: Some("buy one".into()),
        });
        let received = || {
            let mut bytes = [0; 256];
            let length = journald.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let (priority, message) =
                (text.split("PRIORITY=").nth(1)?[..1].to_owned(), text.rsplit('\0').next()?);
            Some(format!("{priority} {}", message.trim_end()))
        };
        let lines: Vec<String> = std::iter::from_fn(received).collect();
        assert_eq!(
            lines,
            ["6 ready", "4 warning: not ready", "7 only with -v", "3 no disk", "5 hint: buy one"]
        );
    }
}
