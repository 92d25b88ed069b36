//! Two keys, field by field.

use kcache_store::Field;
use kcache_store::tree::FileChange;

use crate::inputs::change::InputChange;

/// A field that differs.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The changed input.
    pub field: InputChange,
    /// Readable form of the entry's value.
    pub before: Option<String>,
    /// Readable form of the value here.
    pub now: Option<String>,
    /// The files in which two trees differ, where the store has the listings of both.
    pub files: Vec<(FileChange, String)>,
}

/// The fields in which two keys differ.
pub fn differences(before: &[Field], now: &[Field]) -> Vec<Difference> {
    let find = |fields: &'_ [Field], name: &str| fields.iter().find(|field| field.name == name).cloned();
    let mut names: Vec<&str> = before.iter().chain(now).map(|field| field.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name, find(before, name), find(now, name)))
        .filter(|(_, before, now)| {
            before.as_ref().map(|field| &field.value) != now.as_ref().map(|field| &field.value)
        })
        .map(|(name, before, now)| Difference {
            field: InputChange::of_field(name),
            before: before.map(text),
            now: now.map(text),
            files: Vec::new(),
        })
        .collect()
}

/// A field's value in readable form.
fn text(field: Field) -> String {
    match field.note {
        Some(note) => format!("{} ({note})", &field.value[..field.value.len().min(12)]),
        None => field.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Field {
        Field { name: name.into(), value: value.into(), note: None }
    }

    #[test]
    fn only_differences_are_listed() {
        let before = [field("source", "1"), field("recipe", "r"), field("toolchain.pahole", "p")];
        let now = [field("source", "2"), field("recipe", "r")];
        let found = differences(&before, &now);
        let names: Vec<_> = found.iter().map(|difference| difference.field.to_string()).collect();
        assert_eq!(names, ["source", "toolchain.pahole"]);
        assert_eq!((found[1].before.as_deref(), found[1].now.as_deref()), (Some("p"), None));
    }
}
