//! `kcache signatures`: export modules for a signing service that alone has the key, and import its signatures.
//!
//! Both directions use plain files in a directory, so any service can be between them:
//!
//! ```text
//! DIR/<digest>.ko        the module as it was built, unsigned; the digest is its BLAKE3
//! DIR/<digest>.p7s       its PKCS#7 signature, detached, in DER; also <digest>.ko.p7s, as sign-file names it
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::deploy::detached_signature;
use kcache::error::Error;
use kcache::kernel::signing::Certificate;
use kcache::run::context::Context;
use kcache::run::session::Session;
use kcache::store::{Digest, Role, Store};

use super::share::{self, Choice};
use crate::args::{Selection, SignaturesCommand};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{GOOD, Out, paint};

/// A signature with a chain of certificates has some 10 KB; what is larger is something else.
const MAX: u64 = 64 << 10;

pub fn run(context: &Context, out: &Out, command: &SignaturesCommand, dry: bool) -> Result<Exit, Failure> {
    let signing = context.services.signing.as_ref().ok_or_else(|| {
        Failure::usage(
            "no certificate is configured to verify signatures with",
            Some("set `certificate` in [signing] of /etc/kcache/config.toml, see docs/signing.md".into()),
        )
    })?;
    let certificate = signing.certificate()?;
    match command {
        SignaturesCommand::Export { dir, which } => export(context, out, &certificate, dir, which, dry),
        SignaturesCommand::Import { from } => import(context, out, &certificate, from, dry),
    }
}

fn export(
    context: &Context,
    out: &Out,
    certificate: &Certificate,
    dir: &Path,
    which: &Selection,
    dry: bool,
) -> Result<Exit, Failure> {
    let (session, choices) = share::choices(context, out, which, false)?;
    let mut exit = Exit::Done;
    let mut lacking = BTreeMap::new();
    for choice in &choices {
        match (choice, &session.store) {
            (Choice::Entry { entry, .. }, Some(store)) => {
                for output in entry.manifest().outputs.iter().filter(|output| output.role == Role::Module) {
                    let module = object(store, &output.digest, output.size)?;
                    if detached_signature::find(&session, certificate, &output.digest, &module)?.is_none() {
                        lacking.insert(output.digest, module);
                    }
                }
            }
            _ => exit = exit.or(share::report_missing(out, choice, dry)),
        }
    }
    if !dry && !lacking.is_empty() {
        fs::create_dir_all(dir)?;
    }
    for (digest, module) in &lacking {
        let path = dir.join(format!("{digest}.ko"));
        if !dry {
            fs::write(&path, module)?;
        }
        print_state(out, digest, if dry { "would export" } else { "exported" }, &path, dry);
    }
    if lacking.is_empty() && exit == Exit::Done {
        out.print("every module already has a signature");
    }
    Ok(exit)
}

/// Prints what became of one module or its signature.
fn print_state(out: &Out, digest: &Digest, state: &'static str, path: &Path, dry_run: bool) {
    let path = path.display().to_string();
    if out.json {
        let digest = digest.to_string();
        out.record(&json::Signature { r#type: "signature", digest, state, dry_run, path });
    } else {
        out.data(&format!("{path}  {}", paint(GOOD, state)));
    }
}

fn object(store: &Store, digest: &Digest, size: u64) -> Result<Vec<u8>, Failure> {
    let missing = || Failure {
        exit: Exit::Unexpected,
        message: format!("object {digest} is not in the store"),
        hint: None,
    };
    store.read_object(digest, size)?.ok_or_else(missing)
}

fn import(
    context: &Context,
    out: &Out,
    certificate: &Certificate,
    from: &[PathBuf],
    dry: bool,
) -> Result<Exit, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let store = session.store.as_ref().ok_or(Error::NoStore)?;
    let sizes = sizes(store)?;
    let mut exit = Exit::Done;
    for path in files(from)? {
        super::interrupted(context)?;
        let result = signed_module(&path, &sizes).and_then(|(digest, size)| {
            let module = object(store, &digest, size)?;
            let bytes = read(&path)?;
            match dry {
                true => kcache::kernel::signing::attach(&module, &bytes, certificate)
                    .map(drop)
                    .map_err(Error::from)?,
                false => detached_signature::import(&session, certificate, &digest, &module, &bytes)?,
            }
            Ok(digest)
        });
        match result {
            Ok(digest) => {
                print_state(out, &digest, if dry { "would import" } else { "imported" }, &path, dry);
            }
            Err(failure) => {
                exit = exit.or(failure.exit);
                out.failure(&Failure {
                    message: format!("{}: {}", path.display(), failure.message),
                    ..failure
                });
            }
        }
    }
    Ok(exit)
}

/// The size of every module that the store knows.
fn sizes(store: &Store) -> Result<BTreeMap<Digest, u64>, Failure> {
    let mut sizes = BTreeMap::new();
    for row in store.find(&[])?.iter().filter(|row| row.built) {
        let Some(entry) = store.lookup(&row.key)? else { continue };
        let modules = entry.manifest().outputs.iter().filter(|output| output.role == Role::Module);
        sizes.extend(modules.map(|output| (output.digest, output.size)));
    }
    Ok(sizes)
}

/// The module whose signature a file is, by the file's name.
fn signed_module(path: &Path, sizes: &BTreeMap<Digest, u64>) -> Result<(Digest, u64), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".p7s").map(|stem| stem.strip_suffix(".ko").unwrap_or(stem));
    let digest: Digest = stem
        .and_then(|stem| stem.parse().ok())
        .ok_or_else(|| Failure::usage("the file name is not DIGEST.p7s", None))?;
    let size = sizes.get(&digest).ok_or_else(|| Failure {
        exit: Exit::NotReady,
        message: "the store has no module with this digest".to_owned(),
        hint: Some("import signatures on the host that exported the modules".into()),
    })?;
    Ok((digest, *size))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if fs::metadata(path)?.len() > MAX {
        return Err(Failure { exit: Exit::Refused, message: format!("larger than {MAX} bytes"), hint: None });
    }
    Ok(fs::read(path)?)
}

/// The files that are meant: of a directory those that end in `.p7s`.
fn files(from: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in from {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        inside.retain(|path| path.extension().is_some_and(|extension| extension == "p7s"));
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}
