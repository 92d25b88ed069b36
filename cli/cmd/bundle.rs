//! `kcache export` and `import`: builds in one file, for air-gapped hosts.

use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use fs_err as fs;
use kcache::resolve::{by_key, publish};
use kcache::run::context::Context;
use kcache::run::progress::size;
use kcache::store::{self, Key, Notice};

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
    let write = |to: &mut dyn Write| store::export(store, &keys, &pointers, args.unsigned, to);
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
        "exported {} and {}, {}",
        count(entries, "entry", "entries"),
        count(objects, "object", "objects"),
        size(exported.bytes)
    ));
    if out.json {
        let (pointers, bytes) = (pointers.len(), exported.bytes);
        out.record(&json::Exported { r#type: "export", entries, objects, pointers, bytes });
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
        "imported {} ({} already present), {} and {}",
        count(imported.entries, "entry", "entries"),
        imported.present,
        count(imported.objects, "object", "objects"),
        count(imported.pointers, "pointer", "pointers"),
    ));
    if out.json {
        let store::Imported { entries, present, refused, objects, pointers } = imported;
        out.record(&json::Imported { r#type: "import", entries, present, refused, objects, pointers });
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

/// A number with its noun: `1 entry`, `2 entries`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
