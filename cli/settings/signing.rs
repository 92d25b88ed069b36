//! `[signing]`: the key or certificate that modules are signed with at installation.

use std::path::PathBuf;

use kcache::kernel::rootfs::Root;
use kcache::kernel::signing::{Hash, KeyPair, KeyPlace, Secret};
use serde::Deserialize;

use super::Setting;
use crate::exit::Failure;

/// How the URI of a key in a token begins.
const SCHEME: &str = "pkcs11:";

/// The table `[signing]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    key: Option<String>,
    certificate: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    passphrase_command: Option<String>,
    hash: Option<String>,
    #[serde(default)]
    when: When,
}

/// Which kernels' modules are signed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    /// Of every kernel that reads signatures.
    #[default]
    Auto,
    /// Of none.
    Never,
}

/// What it means.
#[derive(Debug)]
pub struct Signing {
    pub pair: KeyPair,
    pub hash: Option<Hash>,
}

impl Table {
    /// What it means for the system under a root; `None` where nothing is to be signed.
    pub fn meaning(&self, root: &Root) -> Result<Option<Signing>, String> {
        let place = |path: &PathBuf| root.place(path).map_err(|e| e.to_string());
        let key = match &self.key {
            Some(uri) if is_token(uri) => Some(KeyPlace::Token(uri.clone())),
            Some(path) => Some(KeyPlace::File(place(&PathBuf::from(path))?)),
            None => None,
        };
        let certificate = self.certificate.as_ref().map(place).transpose()?;
        let secret = match (&self.passphrase_file, &self.passphrase_command) {
            (Some(_), Some(_)) => {
                return Err("only one of passphrase-file and passphrase-command may be set".to_owned());
            }
            (Some(path), None) => Some(Secret::File(place(path)?)),
            (None, command) => command.clone().map(Secret::Command),
        };
        match (&key, &certificate) {
            (None, None) => return Err("[signing] has neither key nor certificate".to_owned()),
            (Some(KeyPlace::Token(_)), None) => {
                return Err("a key in a token needs a `certificate`".to_owned());
            }
            _ => {}
        }
        let hash = self.hash.as_deref().map(Hash::of_name).transpose().map_err(|e| e.to_string())?;
        let pair = KeyPair { key, certificate, secret };
        Ok(matches!(self.when, When::Auto).then_some(Signing { pair, hash }))
    }

    /// Whether another program or library is asked, of which nobody knows where it writes.
    pub fn runs_others(&self) -> bool {
        self.passphrase_command.is_some() || self.key.as_deref().is_some_and(is_token)
    }

    /// Its lines, by name.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let when = match self.when {
            When::Auto => "auto",
            When::Never => "never",
        };
        let rows = [
            ("signing.key", self.key.as_deref().map(without_pin)),
            ("signing.certificate", path(&self.certificate)),
            ("signing.passphrase-file", path(&self.passphrase_file)),
            ("signing.passphrase-command", self.passphrase_command.clone()),
            ("signing.hash", self.hash.clone()),
            ("signing.when", Some(when.to_owned())),
        ];
        rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Whether a key is in a token. The names of URIs' schemes have no case.
fn is_token(key: &str) -> bool {
    key.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// A URI up to the first attribute that is not one of those that no PIN stands in: whoever mistypes `pin-value`, or has a PIN
/// with `&` in it, does not want to see it either.
fn without_pin(key: &str) -> String {
    const SHOWN: [&str; 9] =
        ["token", "serial", "manufacturer", "model", "object", "id", "type", "module-path", "pin-source"];
    if !is_token(key) {
        return key.to_owned();
    }
    let mut shown = SCHEME.len();
    for part in key[shown..].split_inclusive([';', '?', '&']) {
        if !part.split_once('=').is_some_and(|(name, _)| SHOWN.contains(&name)) {
            return format!("{}...", &key[..shown]);
        }
        shown += part.len();
    }
    key.to_owned()
}

/// What is configured, if anything is.
pub fn meaning(table: Option<&Setting<Table>>, root: &Root) -> Result<Option<Signing>, Failure> {
    let Some(Setting { value, origin }) = table else { return Ok(None) };
    value.meaning(root).map_err(|problem| Failure::usage(format!("{origin}: {problem}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_that_stands_in_a_name_is_not_shown() {
        let table: Table =
            toml::from_str("key = 'pkcs11:token=x?module-path=/a.so&pin-value=1234&b=c'").unwrap();
        assert_eq!(table.rows()[0].1, "pkcs11:token=x?module-path=/a.so&...");
        assert_eq!(without_pin("/etc/a?pin-value=1"), "/etc/a?pin-value=1");
        assert_eq!(without_pin("pkcs11:token=x;id=%01?pin-source=/p"), "pkcs11:token=x;id=%01?pin-source=/p");
        let hidden = ["pin-value=1?2;a=b", "PIN-VALUE=1", "pin%2Dvalue=1", "pin-value=1&2&pin-value=3", "1"];
        for pin in hidden {
            assert_eq!(without_pin(&format!("pkcs11:token=x?{pin}")), "pkcs11:token=x?...");
            assert_eq!(without_pin(&format!("PKCS11:{pin}")), "PKCS11:...");
        }
    }

    fn meaning(text: &str) -> Result<Option<Signing>, String> {
        let table: Table = toml::from_str(text).map_err(|e| e.to_string())?;
        table.meaning(&Root::new("/nowhere"))
    }

    #[test]
    fn paths_are_those_of_the_system_and_tokens_are_none() {
        let signing =
            meaning("key = '/etc/k.pem'\npassphrase-file = '/etc/p'\nhash = 'sha512'").unwrap().unwrap();
        assert_eq!(signing.pair.key, Some(KeyPlace::File("/nowhere/etc/k.pem".into())));
        assert_eq!(signing.pair.secret, Some(Secret::File("/nowhere/etc/p".into())));
        assert_eq!(signing.hash, Some(Hash::Sha512));
        let uri = "pkcs11:token=a?module-path=/usr/lib/x.so";
        let signing = meaning(&format!("key = '{uri}'\ncertificate = '/c'")).unwrap().unwrap();
        assert_eq!(signing.pair.key, Some(KeyPlace::Token(uri.into())));
        assert!(meaning("key = '/k'\nwhen = 'never'").unwrap().is_none());
    }

    #[test]
    fn impossible_values_are_reported() {
        let check = |text: &str, expect: &str| {
            let told = meaning(text).unwrap_err();
            assert!(told.contains(expect), "{told}");
        };
        check("", "neither key nor certificate");
        check("key = 'pkcs11:token=a'", "needs a `certificate`");
        check("key = '/k'\npassphrase-file = '/p'\npassphrase-command = 'cat'", "only one");
        check("key = '/k'\nhash = 'md5'", "unsupported hash md5");
        check("key = '/k'\nwhen = 'always'", "unknown variant");
        check("key = '/k'\npassphrase = 'a'", "unknown field `passphrase`");
    }
}
