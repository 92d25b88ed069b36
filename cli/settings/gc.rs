//! `[gc]`: limits of the store, and pins.

use kcache::store::Key;
use kcache::store::gc::Caps;
use serde::{Deserialize, Deserializer, de};

use crate::units;

/// The table `[gc]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    #[serde(default, deserialize_with = "size")]
    max_size: Option<Written>,
    #[serde(default, deserialize_with = "time")]
    max_age: Option<Written>,
    #[serde(default, deserialize_with = "size")]
    min_free: Option<Written>,
    #[serde(default = "yes")]
    pub keep_previous: bool,
    #[serde(default)]
    pub pins: Vec<Key>,
}

/// A number as it was written, and what it means.
#[derive(Clone, Debug)]
struct Written {
    text: String,
    number: u64,
}

impl Default for Table {
    fn default() -> Table {
        Table { max_size: None, max_age: None, min_free: None, keep_previous: true, pins: Vec::new() }
    }
}

impl Table {
    pub fn caps(&self) -> Caps {
        let number = |written: &Option<Written>| written.as_ref().map(|written| written.number);
        Caps {
            max_size: number(&self.max_size),
            max_age: number(&self.max_age),
            min_free: number(&self.min_free),
        }
    }

    /// Its lines, by name.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let text = |written: &Option<Written>| written.as_ref().map(|written| written.text.clone());
        let rows = [
            ("gc.max-size", text(&self.max_size)),
            ("gc.max-age", text(&self.max_age)),
            ("gc.min-free", text(&self.min_free)),
            ("gc.keep-previous", Some(self.keep_previous.to_string())),
        ];
        let pins = self.pins.iter().map(|key| ("gc.pins", key.to_string()));
        rows.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(pins).collect()
    }
}

fn yes() -> bool {
    true
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Written>, D::Error> {
    written(from, units::bytes)
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Written>, D::Error> {
    written(from, units::seconds)
}

fn written<'de, D: Deserializer<'de>>(
    from: D,
    read: fn(&str) -> Result<u64, String>,
) -> Result<Option<Written>, D::Error> {
    let text = String::deserialize(from)?;
    let number = read(&text).map_err(|problem| de::Error::custom(format!("'{text}': {problem}")))?;
    Ok(Some(Written { text, number }))
}
