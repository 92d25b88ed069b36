//! Tests that help and messages avoid the words that docs/style.md lists.
//!
//! They read clap's description of the command line, and every string in the code that contains a space, because it is a message
//! or may become part of one. Whole words are matched, so the list has only words with one meaning everywhere.

use std::path::{Path, PathBuf};

use crate::args;

/// What is not written, and what is written instead.
const INSTEAD: &[(&str, &str)] = &[
    ("anew", "again, or re-..."),
    ("are not there", "do not exist"),
    ("are to be had", "are available"),
    ("as it should be", "intact, or ready"),
    ("as they should be", "intact, or ready"),
    ("be had", "build, fetch, or find"),
    ("built again", "rebuilt"),
    ("caps", "limits"),
    ("damage", "corruption"),
    ("damaged", "corrupt"),
    ("did not come whole", "is corrupt or missing"),
    ("forgotten", "deleted"),
    ("had first", "built or fetched first"),
    ("hosts without a network", "air-gapped hosts"),
    ("is asked for", "is requested"),
    ("is not asked", "is not queried"),
    ("is not there", "does not exist"),
    ("is not used", "ignoring"),
    ("is there again", "exists again"),
    ("is there already", "already exists"),
    ("it is no", "not a"),
    ("leads nowhere", "is dangling"),
    ("leads out", "points outside"),
    ("made again", "recreated"),
    ("made ready", "installed"),
    ("make ready", "install"),
    ("not kcache's, and", "foreign"),
    ("of no use", "unreferenced, or invalid"),
    ("put right", "repaired"),
    ("puts right", "repairs"),
    ("rotten", "corrupt"),
    ("said aloud", "reported"),
    ("somebody else's", "foreign"),
    ("swept", "deleted"),
    ("taken away", "deleted"),
    ("taken out", "removed"),
    ("that are meant", "selected"),
    ("throw-away", "disposable"),
    ("to be had", "available"),
    ("vouched", "signed by a trusted key"),
    ("vouches", "signs"),
    ("whose word", "trusted"),
];

/// The words of the list that a text has.
fn wrong(text: &str) -> impl Iterator<Item = String> {
    let text = text.to_lowercase();
    let ends = |text: &str, at: usize| !text[at..].starts_with(|c: char| c.is_alphanumeric());
    let starts = |text: &str, at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric());
    let has = move |word: &str| {
        text.match_indices(word).any(|(at, _)| starts(&text, at) && ends(&text, at + word.len()))
    };
    let found = INSTEAD.iter().filter(move |(word, _)| has(word));
    found.map(|(word, instead)| format!("'{word}': write '{instead}'"))
}

/// Everything that `--help` prints for a command and those below it, each with where it stands.
fn help(command: &clap::Command, within: &str, found: &mut Vec<(String, String)>) {
    let name = format!("{within} {}", command.get_name());
    let texts = [command.get_about(), command.get_long_about(), command.get_after_help()];
    found.extend(texts.into_iter().flatten().map(|text| (name.clone(), text.to_string())));
    for argument in command.get_arguments() {
        let place = format!("{name}, {}", argument.get_id());
        let values = argument.get_possible_values();
        let texts = values.iter().filter_map(|value| value.get_help()).chain(argument.get_help());
        found.extend(texts.map(|text| (place.clone(), text.to_string())));
    }
    command.get_subcommands().for_each(|command| help(command, &name, found));
}

/// The texts of a file of code outside its tests and comments.
fn texts(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let (mut found, mut rest) = (Vec::new(), code.as_str());
    while let Some(at) = rest.find('"') {
        let (before, inside) = (&rest[..at], &rest[at + 1..]);
        let hashes = before.len() - before.trim_end_matches('#').len();
        let is_raw = before.trim_end_matches('#').ends_with('r');
        // A quote as a character begins no text.
        if before.ends_with(['\'', '\\']) {
            rest = inside;
            continue;
        }
        let end = match is_raw {
            true => inside.find(&format!("\"{}", "#".repeat(hashes))),
            false => inside
                .char_indices()
                .scan(false, |escaped, (at, c)| {
                    let is_end = c == '"' && !*escaped;
                    *escaped = c == '\\' && !*escaped;
                    Some((at, is_end))
                })
                .find_map(|(at, is_end)| is_end.then_some(at)),
        };
        let Some(end) = end else { break };
        let text = without_arguments(&inside[..end].replace("\\n", " ").replace('\\', ""));
        found.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
        rest = &inside[end + 1..];
    }
    found.retain(|text| text.contains(' '));
    found
}

/// A format string with the names of its arguments left out.
fn without_arguments(text: &str) -> String {
    let mut pieces = text.split('{');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + "{}" + piece.split_once('}').map_or(piece, |(_, rest)| rest))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_test = ["tests", "layers", "words", "fixture", "identity"]
            .iter()
            .any(|name| path.file_stem().is_some_and(|stem| stem == *name));
        if path.is_dir() && !is_test {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test {
            found.push(path);
        }
    }
}

#[test]
fn help_is_in_plain_words() {
    let mut found = Vec::new();
    help(&args::command(), "", &mut found);
    assert!(found.len() > 100, "only {} texts", found.len());
    let wrong: Vec<String> = found
        .iter()
        .flat_map(|(place, text)| wrong(text).map(move |what| format!("{place}: {what}")))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn messages_are_in_plain_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut paths, mut found, mut read) = (Vec::new(), Vec::new(), 0);
    ["cli", "src", "store/src", "kernel/src"].iter().for_each(|dir| files(&root.join(dir), &mut paths));
    for path in &paths {
        let texts = texts(&fs_err::read_to_string(path).unwrap());
        read += texts.len();
        let place = path.strip_prefix(root).unwrap().display();
        let wrong =
            texts.iter().flat_map(|text| wrong(text).map(move |what| format!("\"{text}\" has {what}")));
        found.extend(wrong.map(|what| format!("{place}: {what}")));
    }
    // The older values of `--json`, which are kept for one release.
    found.retain(|what| !what.starts_with("cli/json.rs: \"would "));
    assert!(read > 1000, "only {read} texts");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn texts_are_found_in_code() {
    let code = "let a = '\"'; say(\"one two\"); // \"not this\"\nlet b = r#\"three \" four\"#;\n\"five \\\"six\\\" \\\n    seven\"";
    assert_eq!(texts(code), ["one two", "three \" four", "five \"six\" seven"]);
    let what: Vec<String> = wrong("it is damaged, Anew; renewed").collect();
    assert_eq!(what, ["'anew': write 'again, or re-...'", "'damaged': write 'corrupt'"]);
}
