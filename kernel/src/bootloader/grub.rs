//! GRUB's menu: `grub.cfg`, a script of which only entries and `set default=` are parsed, and `grubenv`.

use std::path::Path;

use super::{Entry, Error, bls};
use crate::rootfs::Root;

/// An entry, or a submenu with its entries.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    entry: Entry,
    children: Vec<Node>,
}

/// Every entry with an image, including those of submenus.
pub(super) fn entries(root: &Root, text: &str) -> Result<Vec<Entry>, Error> {
    if let Some(directory) = bls_directory(root, text) {
        return bls::entries(&directory);
    }
    fn collect(nodes: Vec<Node>, into: &mut Vec<Entry>) {
        for node in nodes {
            into.push(node.entry);
            collect(node.children, into);
        }
    }
    let mut entries = Vec::new();
    collect(menu(text), &mut entries);
    Ok(entries)
}

/// The entry that is booted without user interaction; `None` if the menu is empty.
pub(super) fn default_entry(root: &Root, path: &Path, text: &str) -> Result<Option<Entry>, Error> {
    let variables = crate::bounded_read::config(&path.with_file_name("grubenv")).unwrap_or_default();
    let variable = |name: &str| {
        let line = variables.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|value| !value.is_empty())
    };
    let wanted = match variable("next_entry").or_else(|| configured(text)) {
        Some("${saved_entry}") => variable("saved_entry").unwrap_or("0"),
        wanted => wanted.unwrap_or("0"),
    };
    if let Some(directory) = bls_directory(root, text) {
        return Ok(bls::pick(bls::entries(&directory)?, variable("saved_entry").or(Some(wanted))));
    }
    let menu = menu(text);
    if menu.is_empty() {
        return Ok(None);
    }
    match walk(&menu, wanted) {
        Some(entry) => Ok(Some(entry.clone())),
        None => Err(Error::NoKernel {
            path: path.to_owned(),
            problem: format!("its default entry '{wanted}' is not in the menu"),
        }),
    }
}

/// The directory of BLS entries, if the script uses `blscfg`.
fn bls_directory(root: &Root, text: &str) -> Option<std::path::PathBuf> {
    let asked = text.lines().any(|line| line.split_ascii_whitespace().next() == Some("blscfg"));
    asked.then(|| root.find("/boot/loader/entries"))?
}

/// The last value of `set default=`. grub-mkconfig writes it in both branches of `if [ "${next_entry}" ]`, and the
/// first is taken only with a `next_entry`.
fn configured(text: &str) -> Option<&str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("set default="))
        .map(|value| value.trim_matches('"'))
        .rfind(|value| *value != "${next_entry}")
}

/// Finds an entry by `2`, `1>3`, title or id. For a submenu, this is its first entry.
fn walk<'a>(menu: &'a [Node], wanted: &str) -> Option<&'a Entry> {
    // A title may contain a `>`, so complete names are tried first.
    if let Some(node) = named(menu, wanted) {
        return first_of(node);
    }
    let (first, rest) = wanted.split_once('>')?;
    walk(&named(menu, first)?.children, rest)
}

fn named<'a>(menu: &'a [Node], wanted: &str) -> Option<&'a Node> {
    let is_called = |node: &&Node| node.entry.id == wanted || node.entry.title == wanted;
    menu.iter().find(is_called).or_else(|| menu.get(wanted.parse::<usize>().ok()?))
}

fn first_of(node: &Node) -> Option<&Entry> {
    match node.children.first() {
        Some(child) => first_of(child),
        None => Some(&node.entry),
    }
}

fn menu(text: &str) -> Vec<Node> {
    let mut top = Vec::new();
    let mut open: Vec<Option<Node>> = Vec::new(); // one for each `{`; `None` if it is not an entry
    for line in text.lines() {
        let words = words(line);
        match words.first().map(String::as_str) {
            Some("menuentry" | "submenu") if words.last().is_some_and(|word| word == "{") => {
                open.push(Some(Node { entry: headed(&words), children: Vec::new() }));
            }
            Some("linux" | "linux16" | "linuxefi") => {
                if let Some(Some(node)) = open.last_mut() {
                    node.entry.image = words.get(1).cloned();
                    node.entry.arguments = words.get(2..).unwrap_or_default().join(" ");
                }
            }
            Some("}") => {
                if let Some(Some(node)) = open.pop() {
                    let into = open.iter_mut().rev().find_map(Option::as_mut);
                    into.map_or(&mut top, |parent| &mut parent.children).push(node);
                }
            }
            Some(_) if words.last().is_some_and(|word| word == "{") => open.push(None),
            _ => {}
        }
    }
    top
}

/// Parses the head of an entry: `menuentry TITLE ... $menuentry_id_option ID {`. The variable expands to `--id`.
fn headed(words: &[String]) -> Entry {
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).cloned()
    };
    let id = after("$menuentry_id_option")
        .or_else(|| after("--id"))
        .or_else(|| words.iter().find_map(|word| word.strip_prefix("--id=").map(str::to_owned)));
    Entry { title: words.get(1).cloned().unwrap_or_default(), id: id.unwrap_or_default(), ..Entry::default() }
}

/// Splits a line into words and removes quotes, as a shell does.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    /// A grub.cfg as grub-mkconfig writes it on Debian, shortened.
    fn grub_cfg(default: &str) -> String {
        let entry = |kind: &str, release: &str| {
            format!(
                "menuentry 'Debian, with Linux {release}{kind}' --class os $menuentry_id_option 'gnulinux-{release}{kind}' {{\n\
                 \tif [ x$a = x ]; then insmod gzio; fi\n\
                 \tlinux\t/boot/vmlinuz-{release} root=UUID=1 ro {kind}\n\tinitrd /boot/initrd.img-{release}\n}}\n"
            )
        };
        let simple = entry("", "6.1.0-56-amd64").replace("Debian, with Linux 6.1.0-56-amd64", "Debian");
        let submenu =
            [entry("", "6.1.0-56-amd64"), entry("-single", "6.1.0-56-amd64"), entry("", "6.1.0-55-amd64")];
        format!(
            "if [ \"${{next_entry}}\" ] ; then\n   set default=\"${{next_entry}}\"\nelse\n   set default=\"{default}\"\nfi\n\
             function savedefault {{\n  if true; then\n    save_env saved_entry\n  fi\n}}\n\
             {simple}submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced' {{\n{}}}\n",
            submenu.concat()
        )
    }

    #[track_caller]
    fn chosen(default: &str, environment: &str, expect: Result<&str, &str>) {
        let files =
            [("boot/grub/grub.cfg", grub_cfg(default)), ("boot/grub/grubenv", environment.to_owned())];
        check(&files.each_ref().map(|(path, text)| (*path, text.as_str())), expect);
    }

    const NEW: Result<&str, &str> = Ok("6.1.0-56-amd64");
    const OLD: Result<&str, &str> = Ok("6.1.0-55-amd64");

    #[test]
    fn the_default_is_a_number_title_id_or_submenu_path() {
        chosen("0", "", NEW);
        chosen("1>2", "", OLD);
        chosen("1", "", NEW);
        chosen("gnulinux-advanced>gnulinux-6.1.0-55-amd64", "", OLD);
        chosen("Advanced options>Debian, with Linux 6.1.0-55-amd64", "", OLD);
        chosen("Windows", "", Err("its default entry 'Windows' is not in the menu"));
    }

    #[test]
    fn grubenv_is_used_if_referenced_and_next_entry_once() {
        chosen("${saved_entry}", "# GRUB Environment Block\nsaved_entry=1>2\n####", OLD);
        chosen("${saved_entry}", "", NEW);
        chosen("0", "saved_entry=1>2\n", NEW);
        chosen("0", "next_entry=1>2\n", OLD);
    }

    #[test]
    fn an_empty_menu_has_no_default() {
        check(&[("boot/grub/grub.cfg", "set default=0\n")], Err("no boot loader configuration found"));
    }

    #[test]
    fn the_command_line_is_from_the_kernels_own_entry() {
        let text =
            grub_cfg("0").replace("55-amd64 root=UUID=1 ro ", "55-amd64 root=UUID=1 module.sig_enforce=1");
        let entries = entries(&Root::new("/nonexistent"), &text).unwrap();
        let of = |image: &str| entries.iter().find(|entry| entry.image.as_deref() == Some(image)).unwrap();
        assert_eq!(of("/boot/vmlinuz-6.1.0-55-amd64").arguments, "root=UUID=1 module.sig_enforce=1");
        assert_eq!(of("/boot/vmlinuz-6.1.0-56-amd64").arguments, "root=UUID=1 ro");
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(words(r#"a 'b c' "d \"e" f\ g # h"#), ["a", "b c", "d \"e", "f g"]);
        assert_eq!(words("'' \"unclosed"), ["", "unclosed"]);
    }
}
