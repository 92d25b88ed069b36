//! `kcache keys`: this host's signing key, and the keys that it trusts.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use kcache::kernel::rootfs::Root;
use kcache::store::{PublicKey, SignerId, SigningKey, Store, Trust, TrustedKey, Waiting};

use super::bundle::count;
use super::{context, mok};
use crate::args::KeysCommand;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, GOOD, Out, paint};
use crate::settings::{REVOKED_KEYS, Settings, TRUSTED_KEYS};

/// Digits of an id that name a key. Fewer are too easily another's.
const ENOUGH: usize = 8;

pub fn run(settings: &Settings, out: &Out, command: &KeysCommand) -> Result<Exit, Failure> {
    let keys =
        Keys { settings, out, root: Root::new(&settings.root.value), trust: context::trust(settings)? };
    match command {
        KeysCommand::Generate { name } => keys.generate(name.as_deref()),
        KeysCommand::Mok { dir, name } => mok::make(settings, out, dir, name.as_deref()),
        KeysCommand::List => keys.list(),
        KeysCommand::Trust { file, name } => keys.trust(file, name.as_deref()),
        KeysCommand::Revoke { key } => keys.revoke(key),
    }
}

struct Keys<'a> {
    settings: &'a Settings,
    out: &'a Out,
    root: Root,
    trust: Trust,
}

impl Keys<'_> {
    fn generate(&self, name: Option<&str>) -> Result<Exit, Failure> {
        let path = &self.settings.signing_key.value;
        if path.symlink_metadata().is_ok() {
            return Err(Failure::usage(
                format!("this host already has a signing key: {}", path.display()),
                Some("to replace it, move the file away and run this command again; distribute the new public key before you stop trusting the old one".into()),
            ));
        }
        let name = plain(&name.map_or_else(context::hostname, str::to_owned))?;
        let public = self.free(&name)?;
        make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let key = SigningKey::generate()?;
        key.write_new(path)?;
        publish(&public, &key.public().to_pem())?;
        if self.out.json {
            let signing_key = Some(path.display().to_string());
            let change = self.change("trusted", &name, key.public().id(), &public);
            self.out.record(&json::KeyChange { signing_key, ..change });
            return Ok(Exit::Done);
        }
        self.out.print(&format!("this host now signs its builds with {}", path.display()));
        self.out.print(&format!(
            "to trust it on other hosts, copy this file there and run `kcache keys trust {name}.pem`:"
        ));
        self.out.data(&public.display().to_string());
        Ok(Exit::Done)
    }

    fn list(&self) -> Result<Exit, Failure> {
        let own = self.own();
        let row = |state, key: &TrustedKey| row(state, &key.name, key.key.id(), &key.path, own);
        let mut rows: Vec<json::Key> = self.trust.keys().map(|key| row("trusted", key)).collect();
        rows.extend(self.trust.revoked().map(|key| row("revoked", key)));
        rows.sort_by(|a, b| (a.state == "revoked", &a.name).cmp(&(b.state == "revoked", &b.name)));
        if self.out.json {
            self.out.document(&rows);
            return Ok(Exit::Done);
        }
        for row in &rows {
            let style = if row.state == "trusted" { GOOD } else { BAD };
            let own = if row.own { "  this host's own" } else { "" };
            self.out.data(&format!("{}  {}  {}{own}", paint(style, row.state), row.id, row.name));
        }
        if rows.is_empty() {
            self.out.print("no key is trusted, so nothing from shared caches is used");
        }
        if own.is_some_and(|own| !self.trust.keys().any(|key| key.key.id() == own)) {
            self.out.warn("this host's own key is not trusted");
        }
        Ok(Exit::Done)
    }

    fn trust(&self, file: &Path, name: Option<&str>) -> Result<Exit, Failure> {
        let key = read_public(file)?;
        if let Some(revoked) = self.trust.revoked().find(|revoked| revoked.key.id() == key.id()) {
            return Err(Failure {
                exit: Exit::Refused,
                message: format!("{} contains a revoked key: {}", file.display(), revoked.name),
                hint: Some(format!("delete {} if that was a mistake", revoked.path.display())),
            });
        }
        if let Some(known) = self.trust.keys().find(|known| known.key.id() == key.id()) {
            self.out.print(&format!("{} is already trusted as {}", key.id(), known.name));
            self.record(self.unchanged("trusted", known));
            return Ok(Exit::Done);
        }
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = plain(name.unwrap_or(&stem))?;
        let path = self.free(&name)?;
        publish(&path, &key.to_pem())?;
        self.out.print(&format!("{name} is trusted: {}", key.id()));
        self.record(self.change("trusted", &name, key.id(), &path));
        Ok(Exit::Done)
    }

    fn revoke(&self, word: &str) -> Result<Exit, Failure> {
        if let Some(revoked) = self.trust.revoked().find(|key| key.name == word)
            && !self.trust.keys().any(|key| key.name == word)
        {
            self.out.print(&format!("{word} is already revoked: {}", revoked.key.id()));
            self.record(self.unchanged("revoked", revoked));
            return Ok(Exit::Done);
        }
        let (name, key, trusted) = self.find(word)?;
        let mut path = self.root.place(REVOKED_KEYS)?.join(format!("{name}.pem"));
        if path.exists() {
            path.set_file_name(format!("{name}-{}.pem", key.id().short()));
        }
        if !self.trust.revoked().any(|revoked| revoked.key.id() == key.id()) {
            publish(&path, &key.to_pem())?;
        }
        // Revoked first: a crash between the two leaves a key that is revoked.
        if let Some(trusted) = trusted {
            fs::remove_file(trusted)?;
        }
        self.out.print(&format!("{name} is revoked: {}", key.id()));
        let entries = self.signed_by(key.id())?;
        let signed = count(entries, "entry in the store is", "entries in the store are");
        self.out.print(&format!(
            "{signed} signed with it; entries without another trusted signature are no longer used"
        ));
        let change = self.change("revoked", &name, key.id(), &path);
        self.record(json::KeyChange { entries: Some(entries), ..change });
        if self.own() == Some(key.id()) {
            let path = self.settings.signing_key.value.display();
            self.out.warn("this is this host's own key");
            self.out.hint(&format!("delete {path} and run `kcache keys generate`"));
        }
        Ok(Exit::Done)
    }

    /// The key that a word means: its name, and its file among the trusted ones.
    fn find(&self, word: &str) -> Result<(String, PublicKey, Option<PathBuf>), Failure> {
        let is = |key: &&TrustedKey| {
            key.name == word || (word.len() >= ENOUGH && key.key.id().to_string().starts_with(word))
        };
        let found: Vec<&TrustedKey> = self.trust.keys().filter(is).collect();
        match found[..] {
            [key] => Ok((key.name.clone(), key.key.clone(), Some(key.path.clone()))),
            [] if Path::new(word).is_file() => {
                let key = read_public(Path::new(word))?;
                let stem = Path::new(word).file_stem().unwrap_or_default().to_string_lossy();
                let trusted = self.trust.keys().find(|known| known.key.id() == key.id());
                Ok((plain(&stem)?, key, trusted.map(|known| known.path.clone())))
            }
            [] => Err(Failure::usage(
                format!("no trusted key is named '{word}'"),
                Some("run `kcache keys list`; give a key that was never trusted as a file".into()),
            )),
            _ => Err(Failure::usage(format!("'{word}' matches several keys' ids"), None)),
        }
    }

    /// The id of this host's own key, where it can be read.
    fn own(&self) -> Option<SignerId> {
        SigningKey::read(&self.settings.signing_key.value).ok().map(|key| key.public().id())
    }

    /// Where a key of this name is kept; an error where another is.
    fn free(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.root.place(TRUSTED_KEYS)?.join(format!("{name}.pem"));
        match path.symlink_metadata() {
            Ok(_) => Err(Failure::usage(
                format!("there is already a key named {name}: {}", path.display()),
                Some("use --name NAME".into()),
            )),
            Err(_) => Ok(path),
        }
    }

    /// Prints what happened to a key, for programs.
    fn record(&self, change: json::KeyChange) {
        if self.out.json {
            self.out.record(&change);
        }
    }

    fn change(&self, state: &'static str, name: &str, id: SignerId, path: &Path) -> json::KeyChange {
        let key = row(state, name, id, path, self.own());
        json::KeyChange {
            r#type: "key",
            key,
            changed: true,
            signing_key: None,
            entries: None,
            dry_run: false,
        }
    }

    fn unchanged(&self, state: &'static str, key: &TrustedKey) -> json::KeyChange {
        json::KeyChange { changed: false, ..self.change(state, &key.name, key.key.id(), &key.path) }
    }

    /// Number of the store's entries that are signed with a key.
    fn signed_by(&self, id: SignerId) -> Result<u64, Failure> {
        let waiting = Waiting { limit: Duration::ZERO, print: &|_| () };
        let Some(store) = Store::open_existing(&self.settings.store.value, &waiting)? else { return Ok(0) };
        let id = id.to_string();
        let is_signed = |key| {
            let entry = store.lookup(key).ok().flatten();
            entry.is_some_and(|entry| entry.envelope().signatures().iter().any(|sig| sig.keyid == id))
        };
        Ok(store.find(&[])?.iter().filter(|row| is_signed(&row.key)).count() as u64)
    }
}

fn row(state: &'static str, name: &str, id: SignerId, path: &Path, own: Option<SignerId>) -> json::Key {
    json::Key {
        state,
        name: name.to_owned(),
        id: id.to_string(),
        own: own == Some(id),
        path: path.display().to_string(),
    }
}

pub(super) fn read_public(file: &Path) -> Result<PublicKey, Failure> {
    PublicKey::from_pem(&fs::read_to_string(file)?)
        .map_err(|reason| Failure::usage(format!("{}: {reason}", file.display()), None))
}

/// A name that can be a file's.
fn plain(name: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || name.len() > 64 || !name.chars().all(plain) {
        return Err(Failure::usage(
            format!("invalid key name '{}'", name.escape_debug()),
            Some("use --name NAME with up to 64 letters, digits, dots, underscores and dashes".into()),
        ));
    }
    Ok(name.to_owned())
}

/// Writes a key's file, whole or not at all.
pub(super) fn publish(path: &Path, pem: &str) -> Result<(), Failure> {
    make_dir(path.parent().unwrap_or(Path::new("/")))?;
    let draft = path.with_extension("new");
    // What lies there may be a link.
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut file = fs::File::create_new(&draft)?;
    file.write_all(pem.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?; // whatever the umask
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(())
}

pub(super) fn make_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}
