//! What a terminal shows after everything was written to it. Progress bars that came and went have left no trace.
//!
//! Only the sequences that kcache and its bars send are interpreted; `tests/terminal.rs` has the list. Lines are as long as
//! they were written: kcache leaves wrapping to the terminal.

/// The screen after `written`, without colours.
pub fn screen(written: &str) -> String {
    shown(Screen::default(), written)
}

/// The same on a terminal that begins a new line after so many columns, as terminals do.
pub fn wrapped(written: &str, columns: usize) -> String {
    shown(Screen { columns: Some(columns), ..Screen::default() }, written)
}

fn shown(mut screen: Screen, written: &str) -> String {
    let mut rest = written;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\r' => screen.column = 0,
            '\n' => (screen.row, screen.column) = (screen.row + 1, 0),
            '\x1b' => {
                let end = rest.find(|c: char| c.is_ascii_alphabetic()).map_or(rest.len(), |end| end + 1);
                screen.control(&rest[..end]);
                rest = &rest[end..];
            }
            c => screen.put(c),
        }
    }
    screen.lines.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
}

#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    columns: Option<usize>,
}

impl Screen {
    fn put(&mut self, c: char) {
        if Some(self.column) == self.columns {
            (self.row, self.column) = (self.row + 1, 0);
        }
        self.lines.resize_with(self.lines.len().max(self.row + 1), Vec::new);
        let line = &mut self.lines[self.row];
        line.resize(line.len().max(self.column + 1), ' ');
        line[self.column] = c;
        self.column += 1;
    }

    /// Follows a control sequence (ECMA-48), given without its escape character.
    fn control(&mut self, sequence: &str) {
        let Some(body) = sequence.strip_prefix('[') else { return };
        let (parameter, command) = body.split_at(body.len().saturating_sub(1));
        let count = parameter.parse().unwrap_or(1);
        match command {
            "A" => self.row = self.row.saturating_sub(count),
            "B" => self.row += count,
            "G" => self.column = count - 1,
            "J" => {
                self.erase(self.column);
                self.lines.truncate(self.row + 1);
            }
            "K" => self.erase(if parameter == "2" { 0 } else { self.column }),
            _ => {} // a colour, or the cursor's visibility
        }
        while self.lines.last().is_some_and(Vec::is_empty) && self.lines.len() > self.row {
            self.lines.pop();
        }
    }

    fn erase(&mut self, from: usize) {
        if let Some(line) = self.lines.get_mut(self.row) {
            line.truncate(from);
        }
    }
}

#[test]
fn lines_and_colours() {
    assert_eq!(screen("one\r\n\x1b[31mtwo\x1b[0m\r\n\r\nfour\r\n"), "one\ntwo\n\nfour\n");
}

#[test]
fn a_bar_that_was_cleared_leaves_nothing() {
    let bars = "⠁ building a\r\n⠁ building b\x1b[1A\r\x1b[2K\x1b[1B\r\x1b[2K\x1b[1A";
    assert_eq!(screen(&format!("{bars}done\r\n")), "done\n");
    assert_eq!(screen("⠁ fetching\r\x1b[2K\r\x1b[Jdone\r\n⠁ fetching\r\x1b[2K"), "done\n");
}

#[test]
fn a_line_that_is_overwritten_keeps_its_end() {
    assert_eq!(screen("abcdef\rXY\r\n"), "XYcdef\n");
    assert_eq!(screen("abcdef\r\x1b[KXY\r\n"), "XY\n");
}
