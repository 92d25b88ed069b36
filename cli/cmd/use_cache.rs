//! `kcache use`: start to use a shared cache, and to trust the builder whose builds are in it.
//!
//! ```text
//! /etc/kcache/config.d/50-HOST.toml               the [[cache]] table
//! /etc/kcache/config.d/40-site.toml               packages = "@site", if that is wanted
//! /etc/kcache/trusted-keys/HOST-KEYID.pem         the builder's key
//! ```
//! The cache must answer before anything is written. Builders offer their keys in it (`kcache_store::offered`), and so can anybody
//! else who may write there. So a key is taken only if the caller names its id, or confirms it at a terminal.
//!
//! The key is written first: after a crash between the two, a key is trusted that no cache is configured for, which changes
//! nothing. No file replaces another one. If the cache has a site file that this key signed, the caller is asked whether this host is
//! to want its packages; who cannot be asked gets the words to write, or says `--site`.

use std::io::{self, IsTerminal, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use kcache::kernel::bounded_read;
use kcache::kernel::rootfs::Root;
use kcache::store::transport::{self, Transport, TransportError, without_credentials};
use kcache::store::{PublicKey, Site, Trust, offered, offered_site};

use super::context;
use super::keys::{make_dir, publish, read_public};
use crate::args::Use;
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::Out;
use crate::settings::caches::{Cache, Table};
use crate::settings::choices::SITE;
use crate::settings::{Origin, Settings, TRUSTED_KEYS};

/// Directory of the written settings under the root.
const CONFIG: &str = "/etc/kcache/config.d";
/// The file there that says that this host wants what the site file says.
const SITE_FILE: &str = "40-site.toml";
/// Packages of a site file that one line names.
const MOST_NAMED: usize = 8;
/// Hexadecimal digits of an id that name a key: as many as nobody makes another key for.
const ENOUGH: usize = 16;
/// Numbers that the names of written files begin with.
const NUMBERS: std::ops::Range<u32> = 50..90;
/// Longest part of a file's name that is taken from a URL.
const LONGEST: usize = 48;

pub fn run(settings: &Settings, out: &Out, args: &Use, dry: bool) -> Result<Exit, Failure> {
    let root = Root::new(&settings.root.value);
    let trust = context::trust(settings)?;
    let using = Using { settings, out, root, trust, dry };
    let text = table(args)?;
    let cache = using.open(args, &text)?;
    let offered = using.ask(args, &*cache)?;
    let key = using.chosen(args, &offered)?;
    let site = offered_site(&*cache, &key).map_err(|trouble| unreachable(args, &trouble))?;
    using.trust(&args.url, &key)?;
    using.configure(&args.url, &text)?;
    using.want(args.site, site.as_ref())?;
    Ok(Exit::Done)
}

/// The file of settings that names the cache.
fn table(args: &Use) -> Result<String, Failure> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!("# Written by kcache use.\n[[cache]]\nurl = {}\n", quoted(&args.url));
    if let Some(ca) = &args.ca {
        let path = ca
            .to_str()
            .filter(|_| ca.is_absolute())
            .ok_or_else(|| Failure::usage(format!("--ca {} is not an absolute path", ca.display()), None))?;
        text.push_str(&format!("ca = {}\n", quoted(path)));
    }
    Ok(text)
}

struct Using<'a> {
    settings: &'a Settings,
    out: &'a Out,
    root: Root,
    trust: Trust,
    dry: bool,
}

impl Using<'_> {
    /// The cache as its settings open it: those that there are already and count in full, or the written table.
    fn open(&self, args: &Use, text: &str) -> Result<Arc<dyn Transport>, Failure> {
        #[derive(serde::Deserialize)]
        struct File {
            cache: [Table; 1],
        }
        let written = || match toml::from_str(text) {
            Ok(File { cache: [table] }) => Ok(Cache::of_table(table, Origin::Default)),
            Err(error) => Err(Failure::usage(error.to_string(), None)),
        };
        let location = match self.configured(&args.url).filter(|cache| args.ca.is_none() && !cache.of_image) {
            Some(cache) => cache.location(&self.root, &context::process())?,
            None => written()?.location(&self.root, &context::process())?,
        };
        transport::open(&location).map_err(|error| Failure::usage(error.to_string(), None))
    }

    /// The cache of this URL that a file of settings names.
    fn configured(&self, url: &str) -> Option<&Cache> {
        let same = |cache: &&Cache| {
            cache.url.trim_end_matches('/') == url.trim_end_matches('/')
                && matches!(cache.origin, Origin::File(_))
        };
        self.settings.caches.iter().find(same)
    }

    /// The keys that the cache offers.
    fn ask(&self, args: &Use, cache: &dyn Transport) -> Result<Vec<PublicKey>, Failure> {
        let keys = offered(cache).map_err(|trouble| unreachable(args, &trouble))?;
        self.out.detail(&format!("{} answers, and offers keys of builders: {}", args.url, keys.len()));
        Ok(keys)
    }

    /// The key to trust from now on. Without a word of the caller's, one that is trusted already will do.
    fn chosen(&self, args: &Use, offered: &[PublicKey]) -> Result<PublicKey, Failure> {
        let key = match &args.key {
            Some(word) if is_id(word) => self.of_id(word, offered)?,
            Some(word) if Path::new(word).exists() => read_public(Path::new(word))?,
            Some(word) => {
                let wrong =
                    format!("--key {word}: neither a file nor at least {ENOUGH} digits of a key's id");
                return Err(Failure::usage(wrong, None));
            }
            None => match offered.iter().find(|key| self.is_trusted(key)) {
                Some(key) => key.clone(),
                None => self.confirmed(offered)?,
            },
        };
        if let Some(revoked) = self.trust.revoked().find(|revoked| revoked.key.id() == key.id()) {
            let hint = format!("delete {} if that was a mistake", revoked.path.display());
            return Err(refused(format!("key {} is revoked: {}", key.id(), revoked.name), hint));
        }
        if args.key.is_some() && !offered.iter().any(|other| other.id() == key.id()) {
            self.out.warn(&format!(
                "the cache does not offer key {}: its builder has pushed nothing yet",
                key.id()
            ));
        }
        Ok(key)
    }

    fn of_id(&self, word: &str, offered: &[PublicKey]) -> Result<PublicKey, Failure> {
        let word = word.to_ascii_lowercase();
        let known = self.trust.keys().map(|known| &known.key);
        let mut found: Vec<&PublicKey> =
            offered.iter().chain(known).filter(|key| key.id().to_string().starts_with(&word)).collect();
        found.dedup_by_key(|key| key.id());
        match found[..] {
            [key] => Ok(key.clone()),
            [] if offered.is_empty() => Err(refused(
                format!("no key {word}: the cache offers none"),
                "use --key FILE with the builder's public key; builders offer theirs with their next push",
            )),
            [] => Err(refused(
                format!("no key {word}; the cache offers {}", ids(offered).join(", ")),
                "compare with `kcache keys list` on the builder",
            )),
            _ => {
                Err(Failure::usage(format!("'{word}' matches several keys"), Some("use the whole id".into())))
            }
        }
    }

    /// The offered key that the caller confirms.
    fn confirmed(&self, offered: &[PublicKey]) -> Result<PublicKey, Failure> {
        if offered.is_empty() {
            return Err(refused(
                "the cache offers no builder's key".to_owned(),
                "use --key FILE with the builder's public key; builders offer theirs with their next push",
            ));
        }
        let which = format!("which key is to be trusted? the cache offers {}", ids(offered).join(", "));
        let hint = "compare with `kcache keys list` on the builder, and use --key ID";
        if !self.can_ask() {
            return Err(Failure::usage(which, Some(hint.into())));
        }
        for key in offered {
            self.out.print("compare this id with `kcache keys list` on the builder:");
            if self.agrees(&format!("{}  trust it? [y/N]", key.id()))? {
                return Ok(key.clone());
            }
        }
        Err(refused("no key was confirmed, so nothing was written".to_owned(), hint))
    }

    /// Whether somebody at a terminal can be asked.
    fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal() && !self.out.json && !self.out.quiet
    }

    fn agrees(&self, question: &str) -> io::Result<bool> {
        self.out.print(question);
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
    }

    fn is_trusted(&self, key: &PublicKey) -> bool {
        self.trust.keys().any(|known| known.key.id() == key.id())
    }

    fn trust(&self, url: &str, key: &PublicKey) -> Result<(), Failure> {
        let known = self.trust.keys().find(|known| known.key.id() == key.id());
        let name =
            known.map_or_else(|| format!("{}-{}", place(url), key.id().short()), |known| known.name.clone());
        let path = match known {
            Some(known) => known.path.clone(),
            None => self.root.place(TRUSTED_KEYS)?.join(format!("{name}.pem")),
        };
        if known.is_none() && path.symlink_metadata().is_ok() {
            return Err(Failure::usage(format!("there is already another key in {}", path.display()), None));
        }
        if known.is_none() && !self.dry {
            publish(&path, &key.to_pem())?;
        }
        if self.out.json {
            let (state, id, path) = ("trusted", key.id().to_string(), path.display().to_string());
            let key = json::Key { state, name, id, own: false, path };
            let changed = known.is_none();
            self.out.record(&json::KeyChange {
                r#type: "key",
                key,
                changed,
                signing_key: None,
                entries: None,
                dry_run: self.dry,
            });
            return Ok(());
        }
        match (known, self.dry) {
            (Some(_), _) => self.out.print(&format!("{} is already trusted as {name}", key.id())),
            (None, true) => self.out.print(&format!("{name} would be trusted: {}", key.id())),
            (None, false) => self.out.print(&format!("{name} is trusted: {}", key.id())),
        }
        Ok(())
    }

    /// Writes the settings, unless some file names this cache already.
    fn configure(&self, url: &str, text: &str) -> Result<(), Failure> {
        if let Some(Cache { origin: Origin::File(path), .. }) = self.configured(url) {
            self.print(url, path, Action::Keep);
            return Ok(());
        }
        let dir = self.root.place(CONFIG)?;
        for number in NUMBERS {
            let path = dir.join(format!("{number}-{}.toml", place(url)));
            // A file of ours that is not among the settings: of another root, whose settings do not all count.
            if matches!(bounded_read::text_in(&dir, &path), Ok(Some(there)) if there == text) {
                self.print(url, &path, Action::Keep);
                return Ok(());
            }
            if path.symlink_metadata().is_err() && (self.dry || write_new(&path, text)?) {
                self.print(url, &path, Action::Write);
                self.warn_of_image(url);
                return Ok(());
            }
        }
        Err(Failure::usage(format!("too many files in {}", dir.display()), None))
    }

    /// Reports the site file, and has this host want its packages if the caller says so.
    fn want(&self, told: bool, site: Option<&Site>) -> Result<(), Failure> {
        let names = site.map(|site| site.contents().packages.clone()).unwrap_or_default();
        let dir = self.root.place(CONFIG)?;
        let path = dir.join(SITE_FILE);
        let text = format!("# Written by kcache use.\npackages = \"{SITE}\"\n");
        // Under another root, or behind --config, the file may not be among the settings.
        let wants = self.settings.packages.iter().any(|package| package.value == SITE)
            || matches!(bounded_read::text_in(&dir, &path), Ok(Some(there)) if there == text);
        if !wants && !told && site.is_none() {
            return Ok(());
        }
        if !wants && told && site.is_none() {
            self.out
                .warn("the cache has no site file that this key signed: its builder has published none yet");
        } else if site.is_some() {
            self.out.print(&format!("the cache has a site file, for hosts that want {}", named(&names)));
        }
        let hint = format!("to want them here, use --site, or write `packages = \"{SITE}\"` to the settings");
        let agreed = wants || told || (self.can_ask() && self.agrees("want them on this host? [y/N]")?);
        let action = match (wants, agreed) {
            (true, _) => Some(Action::Keep),
            (false, true) => {
                if !self.dry && !write_new(&path, &text)? {
                    return Err(Failure::usage(format!("there is already another {}", path.display()), None));
                }
                Some(Action::Write)
            }
            (false, false) => {
                self.out.hint(&hint);
                None
            }
        };
        let inside = self.root.inside(&path).unwrap_or(path).display().to_string();
        if self.out.json {
            let path = action.filter(|action| *action == Action::Write).map(|_| inside);
            self.out.record(&json::UsedSite {
                r#type: "site",
                packages: names,
                path,
                action,
                dry_run: self.dry,
            });
        } else if action == Some(Action::Write) {
            self.out.data(&format!("{inside}  {}", Action::Write.words(self.dry)));
        }
        Ok(())
    }

    /// Of a tree under `--root` not every setting counts.
    fn warn_of_image(&self, url: &str) {
        let is_remote = ["http://", "https://", "oci://"].iter().any(|scheme| url.starts_with(scheme));
        if !self.root.is_host() && !is_remote {
            let what = "with --root, kcache ignores this cache unless its file is named with --config";
            self.out.warn(&format!("{}: {what}", without_credentials(url)));
        }
    }

    fn print(&self, url: &str, path: &Path, action: Action) {
        let inside = self.root.inside(path).unwrap_or_else(|| path.to_owned()).display().to_string();
        if self.out.json {
            let cache = url.to_owned();
            self.out.record(&json::UsedCache {
                r#type: "use",
                cache,
                path: inside,
                action,
                dry_run: self.dry,
            });
        } else if action == Action::Keep {
            self.out.print(&format!("{url} is already configured in {inside}"));
        } else {
            self.out.data(&format!("{inside}  {}", action.words(self.dry)));
        }
    }
}

/// The failure of a cache that does not answer as it should.
fn unreachable(args: &Use, trouble: &TransportError) -> Failure {
    Failure {
        exit: Exit::Unexpected,
        message: format!("shared cache {} {trouble}", without_credentials(&args.url)),
        hint: matches!(trouble, TransportError::Denied(_)).then(|| {
            "a cache that needs credentials needs a [[cache]] table written by hand, see docs/config.md"
                .into()
        }),
    }
}

/// A site's packages in a line.
fn named(names: &[String]) -> String {
    let first = names.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMED) {
        0 if names.is_empty() => "nothing".to_owned(),
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn is_id(word: &str) -> bool {
    (ENOUGH..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit())
}

fn ids(keys: &[PublicKey]) -> Vec<String> {
    keys.iter().map(|key| key.id().to_string()).collect()
}

fn refused(message: String, hint: impl Into<String>) -> Failure {
    Failure { exit: Exit::Refused, message, hint: Some(hint.into()) }
}

/// What files for a cache are called: its host, bucket or directory.
fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    let part = match scheme {
        "file" => rest.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default(),
        _ => rest.split(['/', ':']).next().unwrap_or_default(),
    };
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = part.chars().take(LONGEST).map(plain).collect();
    let name = name.trim_matches(['.', '-']);
    if name.is_empty() { "cache".to_owned() } else { name.to_owned() }
}

/// Writes a file, whole or not at all; false if there is one of this name.
fn write_new(path: &Path, text: &str) -> Result<bool, Failure> {
    make_dir(path.parent().unwrap_or(Path::new("/")))?;
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut file = fs::File::create_new(&draft)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?; // whatever the umask
    file.sync_all()?;
    // A rename would replace a file that has appeared meanwhile.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        linked => Ok(linked.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_the_host_the_bucket_or_the_directory() {
        let check = |url: &str, expect: &str| assert_eq!(place(url), expect, "{url}");
        check("https://cache.example.org:8443/kernels/", "cache.example.org");
        check("s3://bucket/prefix", "bucket");
        check("oci://ghcr.io/team/kcache", "ghcr.io");
        check("file:///srv/kcache/", "kcache");
        check("/srv/../..", "cache");
        check("http://[::1]:80/", "cache");
    }

    #[test]
    fn an_id_has_at_least_sixteen_digits() {
        let id = "8b64240baf7541455ca95d084fe2c44aed4c52bd7ee4f61e3cfedc432a7cc624";
        assert!(is_id(id) && is_id(&id[..16]) && is_id(&id[..16].to_uppercase()));
        assert!(!is_id(&id[..15]) && !is_id("key.pem") && !is_id(&format!("{id}0")));
    }
}
