//! Parsing shell text to find the programs that it calls, without running it.
//!
//! A line is split where a shell begins a new command: at `;`, `&&`, `||`, `|`, in `$(...)` and backticks. Quotes keep
//! words together. Words that precede a command (`sudo`, `if`, `then`, `exec`, `A=1`) are skipped by
//! [`Command::program`].

/// Words that may precede the program's name.
const LEADING: [&str; 17] = [
    "!", "{", "if", "then", "else", "elif", "do", "while", "until", "exec", "eval", "time", "env", "command",
    "nice", "builtin", "&",
];

/// A command, split into words without quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The words in order, including assignments before the program.
    pub words: Vec<String>,
}

impl Command {
    /// The program's file name and its arguments; empty if nothing is called.
    pub fn program(&self) -> (&str, &[String]) {
        let leads = |word: &String| LEADING.contains(&word.as_str()) || is_assignment(word);
        let at = self.words.iter().position(|word| !leads(word)).unwrap_or(self.words.len());
        match self.words.get(at) {
            Some(word) => (word.rsplit('/').next().unwrap_or(word), &self.words[at + 1..]),
            None => ("", &[]),
        }
    }

    /// Names of the variables that are set for the program only.
    pub fn environment(&self) -> impl Iterator<Item = &str> {
        self.words
            .iter()
            .take_while(|word| is_assignment(word))
            .filter_map(|word| Some(word.split_once('=')?.0))
    }
}

/// Whether a word is `NAME=...` or `NAME[0]=...`.
pub fn is_assignment(word: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let variable = |left: &str| is_name(left.trim_end_matches('+').split('[').next().unwrap_or_default());
    word.split_once('=').is_some_and(|(left, _)| variable(left))
}

/// The commands of a text, including those in substitutions, in the order of their beginnings.
pub fn commands(text: &str) -> Vec<Command> {
    let mut splitter = Splitter::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (splitter.quote, c) {
            (Some('\''), '\'') => splitter.quote = None,
            (Some('\''), _) => splitter.push(c),
            (_, '\\') => splitter.extend(chars.next()),
            (Some('"'), '"') => splitter.quote = None,
            (_, '$') if chars.peek() == Some(&'(') => {
                chars.next();
                splitter.enter();
            }
            (_, '`') => splitter.backtick(),
            (_, ')') if splitter.is_inside() => splitter.leave(),
            (Some(_), _) => splitter.push(c),
            (None, '\'' | '"') => splitter.begin_quote(c),
            (None, '#') if splitter.is_between() => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, ';' | '|' | '&' | '(' | ')' | '\n') => splitter.end_command(),
            (None, c) if c.is_whitespace() => splitter.end_word(),
            (None, c) => splitter.push(c),
        }
    }
    splitter.finish()
}

/// A command with an unfinished substitution: its words, the current word, its quote, and whether the substitution is
/// in backticks.
type Aside = (Vec<String>, Option<String>, Option<char>, bool);

/// State of the splitter. Each `$(` pushes the unfinished command.
#[derive(Default)]
struct Splitter {
    found: Vec<Command>,
    aside: Vec<Aside>,
    words: Vec<String>,
    word: Option<String>,
    quote: Option<char>,
    in_backticks: bool,
}

impl Splitter {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn extend(&mut self, c: Option<char>) {
        self.word.get_or_insert_default().extend(c);
    }

    fn begin_quote(&mut self, c: char) {
        self.word.get_or_insert_default();
        self.quote = Some(c);
    }

    fn is_between(&self) -> bool {
        self.word.is_none()
    }

    fn is_inside(&self) -> bool {
        !self.aside.is_empty() && self.quote.is_none() && !self.in_backticks
    }

    fn enter(&mut self) {
        let word = std::mem::take(&mut self.word);
        self.aside.push((std::mem::take(&mut self.words), word, self.quote.take(), self.in_backticks));
        self.in_backticks = false;
    }

    /// Returns to the word with the substitution, which is marked there because its value is not known.
    fn leave(&mut self) {
        self.end_command();
        if let Some((words, word, quote, in_backticks)) = self.aside.pop() {
            (self.words, self.quote, self.in_backticks) = (words, quote, in_backticks);
            self.word = Some(word.unwrap_or_default() + "$()");
        }
    }

    fn backtick(&mut self) {
        if self.in_backticks {
            self.leave();
        } else {
            self.enter();
            self.in_backticks = true;
        }
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.found.push(Command { words: std::mem::take(&mut self.words) });
        }
    }

    fn finish(mut self) -> Vec<Command> {
        self.end_command();
        while !self.aside.is_empty() {
            self.leave();
            self.end_command();
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let found: Vec<String> = commands(text).iter().map(|command| command.words.join(" ")).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn lines_are_split_as_by_a_shell() {
        check("cd x && make -C 'a b' all; ls|wc", &["cd x", "make -C a b all", "ls", "wc"]);
        check("a \"$(b c)\" d", &["b c", "a $() d"]);
        check("a `b c` d # e; f", &["b c", "a $() d"]);
        check("X=$(uname -r | cut -c1) make", &["uname -r", "cut -c1", "X=$() make"]);
        check("find . -name '*;*' -exec mv {} x \\;", &["find . -name *;* -exec mv {} x ;"]);
        check("(a; $(b", &["a", "b", "$()"]);
    }

    #[test]
    fn the_program_is_found_after_leading_words() {
        let program = |text: &str| {
            let commands = commands(text);
            let (program, arguments) = commands[0].program();
            (program.to_owned(), arguments.to_vec())
        };
        assert_eq!(program("A=1 exec /sbin/depmod -a"), ("depmod".into(), vec!["-a".into()]));
        assert_eq!(program("A=1"), (String::new(), Vec::new()));
        assert_eq!(program("A[0]=/updates/dkms"), (String::new(), Vec::new()));
    }
}
