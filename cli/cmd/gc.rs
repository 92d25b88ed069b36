//! `kcache gc`: garbage-collect the store, and print what is deleted and why.

use chrono::DateTime;
use kcache::deploy::gc;
use kcache::run::context::Context;
use kcache::run::labels::Labels;
use kcache::run::progress::size;
use kcache::store::gc::{Caps, GcPlan, GcReason, GcRules, Going, Totals, plan};
use kcache::store::{Notice, Scratch};

use super::bundle::count;
use crate::args::Gc;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;
use crate::settings::gc::Table;

pub fn run(context: &Context, out: &Out, args: &Gc, table: &Table, dry: bool) -> Result<Exit, Failure> {
    let Some(store) = context.open_existing_store()? else {
        out.print(&format!("no store in {}", context.store.display()));
        if out.json {
            out.record(&json::Collection { r#type: "summary", ..json::Collection::default() });
        }
        return Ok(Exit::Done);
    };
    let caps = caps(args, table);
    if caps == Caps::default() {
        out.print("no limit is set (max-size, max-age, min-free): deleting unreferenced data only");
    }
    let keep = gc::keep(context, &store, table.keep_previous, &table.pins)?;
    if keep.releases.is_empty() {
        let root = context.root.dir().display();
        out.warn(&format!("no kernel is installed under {root}, so no build counts as installed"));
    }
    let (print, now) = (|notice: &Notice| context.progress().notice(notice), context.now());
    let rules = GcRules {
        caps,
        keep: &keep,
        now,
        grace: args.grace,
        cancel: &context.services.cancel,
        print: &print,
    };
    let scratch = if dry { Scratch::new(&context.temporary)? } else { store.scratch()? };
    let plan = plan(&store, &rules, scratch)?;
    let tell = &mut |going: &Going| line(out, going);
    let gone = if dry {
        plan.entries(tell)?;
        *plan.goes()
    } else {
        let print = |message: &str| context.progress().print(message);
        plan.apply(&store, &context.waiting(&print), &context.services.cancel, tell)?
    };
    summary(out, &plan, &gone, dry);
    Ok(Exit::Done)
}

/// Flags count before settings, each by itself.
fn caps(args: &Gc, table: &Table) -> Caps {
    let set = table.caps();
    Caps {
        max_size: args.max_size.or(set.max_size),
        max_age: args.max_age.or(set.max_age),
        min_free: args.min_free.or(set.min_free),
    }
}

fn line(out: &Out, going: &Going) {
    let Labels { package, version, kernel, .. } = Labels::read(&going.labels);
    let reason = going.reason.to_string();
    if out.json {
        return out.record(&json::Collected {
            r#type: "entry",
            key: going.key.to_string(),
            package: package.to_owned(),
            version: version.to_owned(),
            kernel: kernel.to_owned(),
            built: going.built,
            used: going.used,
            bytes: going.bytes,
            reason,
        });
    }
    let failure = if going.built { "" } else { "  remembered failure" };
    let (size, day) = (size(going.bytes), day(going.used));
    out.data(&format!("{kernel}  {package}/{version}  {size}  last used {day}  {reason}{failure}"));
}

fn day(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    moment.map_or(String::new(), |moment| moment.format("%Y-%m-%d").to_string())
}

fn summary(out: &Out, plan: &GcPlan, gone: &Totals, dry: bool) {
    let stays = plan.stays();
    let did = if dry { "would delete" } else { "deleted" };
    out.print(&format!(
        "{did} {} and {}; {} including pointers and signatures",
        count(gone.entries.files, "entry", "entries"),
        count(gone.objects.files, "object", "objects"),
        size(gone.bytes())
    ));
    let all = stays.entries.bytes + stays.objects.bytes;
    let remain = if stays.entries.files + stays.objects.files == 1 { "remains" } else { "remain" };
    out.print(&format!(
        "{} and {} {remain}, {}; {} installed or pinned, {} within the grace period",
        count(stays.entries.files, "entry", "entries"),
        count(stays.objects.files, "object", "objects"),
        size(all),
        count(stays.kept, "entry is", "entries are"),
        stays.young
    ));
    if let Some(limit) = stays.exceeds {
        out.warn(&format!(
            "{limit} not reached: all remaining entries are installed, pinned or within the grace period"
        ));
    }
    if out.json {
        out.record(&json::Collection {
            r#type: "summary",
            exit: Exit::Done as u8,
            entries: gone.entries.files,
            objects: gone.objects.files,
            pointers: gone.pointers.files,
            signatures: gone.signatures.files,
            drafts: gone.drafts.files,
            bytes: gone.bytes(),
            stay_entries: stays.entries.files,
            stay_objects: stays.objects.files,
            stay_bytes: all,
            stay_kept: stays.kept,
            stay_young: stays.young,
            exceeds: stays.exceeds.as_ref().map(GcReason::to_string),
        });
    }
}
