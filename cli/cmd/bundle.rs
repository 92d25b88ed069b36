//! `kcache export` and `import`: builds in one file, for air-gapped hosts.

use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use fs_err as fs;
use kcache::resolve::{by_key, publish};
use kcache::run::context::Context;
use kcache::run::progress::size;
use kcache::store::{self, Contents, Key, Notice, Site};

use super::share::{Choice, choices, report_missing, sign};
use crate::args::{Export, Import};
use crate::exit::{Exit, Failure};
use crate::file;
use crate::json;
use crate::out::Out;

pub fn export(context: &Context, out: &Out, args: &Export, dry: bool) -> Result<Exit, Failure> {
    let (session, choices) = choices(context, out, &args.which, args.all)?;
    let (mut exit, mut keys, mut pointers): (_, Vec<Key>, Vec<_>) = (Exit::Done, Vec::new(), Vec::new());
    for choice in &choices {
        match (choice, &session.store) {
            (Choice::Entry { entry, newest }, Some(store)) => {
                keys.push(entry.manifest().key);
                if !dry {
                    let sign = sign(context, args.adopt, args.unsigned);
                    pointers.extend(publish::sign_entry(&session, store, entry, sign, *newest)?);
                }
            }
            _ => exit = exit.or(report_missing(out, choice, dry)),
        }
    }
    let Some(store) = session.store.as_ref().filter(|_| !keys.is_empty()) else {
        out.print("nothing to export");
        return Ok(exit.or(Exit::NotReady));
    };
    if dry {
        out.print(&format!("would export {}", count(keys.len() as u64, "entry", "entries")));
        return Ok(exit);
    }
    // A host that gets everything also gets what it is to want.
    let whole = args.all || (args.which.packages.is_empty() && args.which.kernels.kernels.is_empty());
    let trusted = |site: &Site| context.caches().trust().verify_one(site.envelope()).is_ok();
    let site = if whole { store.site()?.filter(trusted) } else { None };
    let contents = Contents { keys: &keys, pointers: &pointers, site: site.as_ref() };
    let write = |to: &mut dyn Write| store::export(store, contents, args.unsigned, to);
    let exported = if args.file == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::usage(
                "refusing to write an export to a terminal",
                Some("redirect it, or name a FILE".into()),
            ));
        }
        write(&mut BufWriter::new(io::stdout().lock()))?
    } else {
        file::write(&args.file, write)?
    };
    let (entries, objects) = (exported.entries, exported.objects);
    out.print(&format!(
        "exported {}, {}",
        listed([
            count(entries, "entry", "entries"),
            count(objects, "object", "objects"),
            the_site_file(site.is_some()),
        ]),
        size(exported.bytes)
    ));
    if out.json {
        let (pointers, bytes, site) = (pointers.len(), exported.bytes, site.is_some());
        out.record(&json::Exported { r#type: "export", entries, objects, pointers, site, bytes });
    }
    Ok(exit)
}

pub fn import(context: &Context, out: &Out, args: &Import) -> Result<Exit, Failure> {
    let store = context.open_store()?;
    let mut from: Box<dyn Read> = match args.file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(fs::File::open(&args.file)?)),
    };
    let trust = context.caches().trust();
    let print = |notice: &Notice| context.progress().notice(notice);
    let believed = store::Believed { trust, fits: &by_key::is_honest, roll_back: args.allow_rollback };
    let imported = match store::import(&store, &args.file, &mut *from, believed, context.now(), &print) {
        Err(error @ (store::Error::Damaged { .. } | store::Error::Entry { .. })) => {
            let hint = "the intact part is in the store; import a complete file to continue";
            return Err(Failure { exit: Exit::Refused, hint: Some(hint.into()), ..error.into() });
        }
        imported => imported?,
    };
    out.print(&format!(
        "imported {}",
        listed([
            format!("{} ({} already present)", count(imported.entries, "entry", "entries"), imported.present),
            count(imported.objects, "object", "objects"),
            count(imported.pointers, "pointer", "pointers"),
            the_site_file(imported.site),
        ])
    ));
    if out.json {
        let store::Imported { entries, present, refused, objects, pointers, site } = imported;
        out.record(&json::Imported { r#type: "import", entries, present, refused, objects, pointers, site });
    }
    if imported.refused == 0 {
        return Ok(Exit::Done);
    }
    out.failure(&Failure {
        exit: Exit::Refused,
        message: format!("refused: {}", count(imported.refused, "entry or pointer", "entries or pointers")),
        hint: trust.keys().next().is_none().then(|| "no key is trusted; run `kcache keys trust FILE`".into()),
    });
    Ok(Exit::Refused)
}

/// What an export or import contains besides the rest; empty if it has none.
fn the_site_file(is_there: bool) -> String {
    if is_there { "the site file".to_owned() } else { String::new() }
}

/// Parts as a list, `a, b and c`; empty ones are left out.
fn listed<const N: usize>(parts: [String; N]) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match parts.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => parts.concat(),
    }
}

/// A number with its noun: `1 entry`, `2 entries`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
