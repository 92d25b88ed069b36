//! The only writer. stdout is data, stderr is conversation; while progress bars are shown, lines are printed above them.
//!
//! Printed text quotes untrusted text, so everything passes through [`crate::visible`] here, and callers need not think of it.
//! Colours are kcache's own: [`paint`] marks words with a random sign of this process, which no untrusted text can contain, and
//! the escape sequences are inserted after everything else was made safe.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use anstyle::{AnsiColor, Style};
use indicatif::MultiProgress;

use crate::args::{Color, Global};
use crate::exit::Failure;
use crate::journal::{Journal, Priority};
use crate::screen::is_log;
use crate::visible::{json, visible};

/// Writes results, messages and errors.
#[derive(Debug, Default)]
pub struct Out {
    /// Results are JSON.
    pub json: bool,
    /// Results and errors only.
    pub quiet: bool,
    /// 1 and more: details; 2 and more: build logs.
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

/// The styles that a mark can name, by their number.
const STYLES: [Style; 5] = [PLAIN, GOOD, BAD, ODD, HINT];

/// What a mark begins with; a digit follows: a style, or [`END`].
static MARK: LazyLock<String> = LazyLock::new(|| {
    let random = RandomState::new().build_hasher().finish();
    format!("\u{fdd0}{random:016x}")
});

/// Ends what the last mark began.
const END: char = '9';

impl Out {
    pub fn new(global: &Global) -> Out {
        let choice = match global.color {
            Color::Auto if is_log(&|name| std::env::var(name).ok()) => anstream::ColorChoice::Never,
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
    pub fn log_to_journal(&self, journal: Journal) {
        let _ = self.journal.set(journal);
    }

    /// Prints a line of results to stdout.
    pub fn data(&self, line: &str) {
        self.journal(Priority::Info, line);
        self.above_bars(|| {
            stdout_line(line);
        });
    }

    /// Bytes of results: to a file or pipe as they are, to a terminal as text.
    pub fn raw(&self, bytes: &[u8]) {
        let _ = match std::io::stdout().is_terminal() {
            true => std::io::stdout().lock().write_all(visible(&String::from_utf8_lossy(bytes)).as_bytes()),
            false => std::io::stdout().lock().write_all(bytes),
        };
    }

    /// Prints a JSON record in one line.
    pub fn record(&self, record: &impl serde::Serialize) {
        if let Ok(line) = serde_json::to_string(record) {
            self.data(&json(&line));
        }
    }

    /// Prints an indented JSON document.
    pub fn document(&self, document: &impl serde::Serialize) {
        if let Ok(text) = serde_json::to_string_pretty(document) {
            self.data(&json(&text));
        }
    }

    /// Prints a message to stderr, unless `--quiet` was given.
    pub fn print(&self, line: &str) {
        self.journal(Priority::Info, line);
        if !self.quiet {
            self.err(line);
        }
    }

    /// Prints a warning, even with `--quiet`.
    pub fn warn(&self, line: &str) {
        self.journal(Priority::Warning, &format!("warning: {line}"));
        self.err(&format!("{} {line}", paint(ODD, "warning:")));
    }

    /// Prints the next step after a warning, unless `--quiet` was given.
    pub fn hint(&self, line: &str) {
        self.journal(Priority::Notice, &format!("hint: {line}"));
        if !self.quiet {
            self.err(&format!("{} {line}", paint(HINT, "hint:")));
        }
    }

    /// Prints a line that only `-v` shows.
    pub fn detail(&self, line: &str) {
        self.journal(Priority::Debug, line);
        if self.verbose > 0 {
            self.err(line);
        }
    }

    /// Prints an error with its hint, even with `--quiet`.
    pub fn failure(&self, failure: &Failure) {
        self.journal(Priority::Error, &failure.message);
        if let Some(hint) = &failure.hint {
            self.journal(Priority::Notice, &format!("hint: {hint}"));
        }
        self.err(&format!("{} {}", paint(BAD, "error:"), failure.message));
        if let Some(hint) = &failure.hint {
            self.err(&format!("{} {hint}", paint(HINT, "hint:")));
        }
    }

    fn journal(&self, priority: Priority, line: &str) {
        if let Some(journal) = self.journal.get() {
            journal.send(priority, &anstream::adapter::strip_str(&rendered(line)).to_string());
        }
    }

    fn err(&self, line: &str) {
        self.above_bars(|| {
            stderr_line(line);
        });
    }

    fn above_bars(&self, write: impl FnOnce()) {
        match self.bars.get() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

/// A line to stdout, harmless.
pub fn stdout_line(line: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{}", rendered(line)); // who stopped reading (`| head`) has seen enough
}

/// A line to stderr, harmless.
pub fn stderr_line(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{}", rendered(line));
}

/// A line as it goes to a terminal: what others wrote made visible, what was painted in colour.
fn rendered(line: &str) -> String {
    let mut pieces = line.split(MARK.as_str());
    let mut shown = visible(pieces.next().unwrap_or_default()).into_owned();
    let mut style = PLAIN;
    for piece in pieces {
        let mut rest = piece.chars();
        match rest.next() {
            Some(END) | None => shown.push_str(&format!("{style:#}")),
            Some(number) => {
                style = number
                    .to_digit(10)
                    .and_then(|number| STYLES.get(number as usize))
                    .copied()
                    .unwrap_or(PLAIN);
                shown.push_str(&format!("{style}"));
            }
        }
        shown.push_str(&visible(rest.as_str()));
    }
    shown
}

/// A word of a table, and its colour.
pub type Cell = (String, Style);

/// Columns of a package's name beyond which it does not widen those of other rows.
const WIDE: usize = 36;

/// Rows as columns, a line each.
pub fn columns(rows: &[Vec<Cell>]) -> String {
    lay_out(rows, usize::MAX).join("\n")
}

/// Rows about packages as columns: a long name moves only the rest of its own row.
pub fn of_packages(rows: &[Vec<Cell>]) -> Vec<String> {
    lay_out(rows, WIDE)
}

/// Rows as columns, two spaces between them, the last one as long as it is. Colours take no room. A column is as wide as the
/// longest of its cells that has at most so many columns.
fn lay_out(rows: &[Vec<Cell>], most: usize) -> Vec<String> {
    let shown = |(word, style): &Cell| (visible(word).into_owned(), *style);
    let rows: Vec<Vec<Cell>> = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let all = || rows.iter().filter_map(|row| row.get(column)).map(|(word, _)| word.chars().count());
        all().filter(|width| *width <= most).max().or(all().max())
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<Cell>| {
        let last = row.iter().rposition(|(word, _)| !word.is_empty());
        let cell = |(at, (word, style)): (usize, &Cell)| {
            let length = word.chars().count();
            let room = if Some(at) < last { (widths[at] + 2).saturating_sub(length).max(2) } else { 0 };
            format!("{}{:room$}", paint(*style, word), "")
        };
        row.iter().take(last.map_or(0, |last| last + 1)).enumerate().map(cell).collect::<String>()
    };
    rows.iter().map(line).collect()
}

/// A word in a colour.
pub fn paint(style: Style, word: &str) -> String {
    let number = STYLES.iter().position(|known| *known == style).unwrap_or(0);
    let mark = MARK.as_str();
    format!("{mark}{number}{word}{mark}{END}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_line_has_kcaches_colours_and_nobody_elses() {
        let hostile = "\x1b]0;title\x07\x1b[31m\u{fdd0}1";
        let line = format!("{} {hostile}", paint(GOOD, &format!("ready{hostile}")));
        let shown = rendered(&line);
        let plain = "\\u{1b}]0;title\\u{7}\\u{1b}[31m\u{fdd0}1";
        assert_eq!(shown, format!("{GOOD}ready{plain}{GOOD:#} {plain}"));
        let table = columns(&[vec![(hostile.to_owned(), PLAIN), ("b".to_owned(), BAD)]]);
        assert_eq!(rendered(&table), format!("{plain}  {BAD}b{BAD:#}"));
    }

    #[test]
    fn a_long_name_moves_only_its_own_row() {
        let row = |name: &str| vec![(name.to_owned(), PLAIN), ("ready".to_owned(), PLAIN)];
        let long = "x".repeat(WIDE + 1);
        let shown =
            |rows: &[Vec<Cell>]| of_packages(rows).iter().map(|line| rendered(line)).collect::<Vec<_>>();
        assert_eq!(
            shown(&[row("zfs/2.1"), row(&long), row("a")]),
            ["zfs/2.1  ready".to_owned(), format!("{long}  ready"), "a        ready".to_owned()]
        );
        assert_eq!(shown(&[row(&long)]), [format!("{long}  ready")]);
    }

    #[test]
    fn the_journal_gets_every_line_without_colours_and_as_grave_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let journald = std::os::unix::net::UnixDatagram::bind(dir.path().join("socket")).unwrap();
        journald.set_nonblocking(true).unwrap();
        let out = Out { quiet: true, ..Out::default() };
        out.log_to_journal(Journal::at(&dir.path().join("socket")).unwrap());
        out.data(&paint(GOOD, "ready"));
        out.warn("not ready");
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
