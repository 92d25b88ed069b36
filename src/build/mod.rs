//! A build: from a private copy of the source to outputs that can be published.
//!
//! [`crate::resolve`] works between [`make`] and `publish`: it verifies that headers and tools did not change meanwhile, and
//! has the modules checked ([`check_modules`]).

pub mod check_modules;
mod compiler_launcher;
pub mod dependencies;
mod out_of_reach;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use kcache_kernel::build::{self, BuildOutcome, Sought};
use kcache_kernel::kernels::{BuildTree, Mount};
use kcache_kernel::ko::ModuleFault;
use kcache_kernel::rootfs::Root;
use kcache_kernel::rust;
use kcache_kernel::sandbox::{self, Opened, Sandbox};
use kcache_store::{Entry, Manifest, Observed, Outcome, Output, Role, Scratch, Store, tree};

use crate::build::check_modules::{Content, KEPT_NAME, Outputs};
use crate::build::dependencies::Dependency;
use crate::error::{Error, Result};
use crate::inputs::identify::Identified;
use crate::inputs::key::ENVIRONMENT;
use crate::inputs::undeclared;
use crate::run::labels::Labels;
use crate::run::request::Request;
use crate::run::sandbox::{overrides_dir, room, show_writable_source};
use crate::run::session::Session;

/// The fact of an entry that lists what its build did not find.
const SOUGHT: &str = "sought";

/// The fact of an entry that names the command which built it, where there were several to try.
const COMMAND: &str = "command";

/// What the log is called among the outputs.
const LOG_NAME: &str = "log";

/// Options of a build.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Whether objects of an earlier build may be reused (`compiler_launcher`).
    pub may_launch: bool,
}

/// The result of a build before it is stored.
pub struct Product {
    /// The outputs, or the failure.
    pub result: BuildResult,
    /// Modules that are not stored, with the reasons.
    pub left_out: Vec<ModuleFault>,
    /// What of the system a failed build did not find.
    pub sought: Vec<Sought>,
    /// Of several commands to try, the one that built it.
    pub command: Option<String>,
    /// What the build has printed.
    pub log: Content,
    /// The undeclared inputs that it read.
    pub observed: Vec<Observed>,
    /// Duration of the build in seconds.
    pub seconds: f64,
    /// Contains the outputs.
    _scratch: Scratch,
}

/// Success or failure of a build.
pub enum BuildResult {
    /// Modules, and results for other packages.
    Outputs(Outputs),
    /// A failure to remember.
    Failure(Outcome),
}

/// Runs a build in a scratch directory of its own.
///
/// # Errors
///
/// [`Error::Environment`] if this machine is at fault, [`Error::Cancelled`] after cancellation. If the package does
/// not build, the result is [`BuildResult::Failure`].
pub fn make(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    needed: &[Dependency],
    how: How,
) -> Result<Product> {
    let context = session.context;
    let what = request.name();
    let seat = session.jobs.seat();
    let scratch = session.scratch()?;
    // The build never sees the package's own directory: what it reads is what was hashed.
    let source = scratch.path().join("source");
    if tree::snapshot(&request.package.source, &source, &[".git".to_owned()])? != id.source {
        return Err(Error::Changed { what: format!("the source of {}", request.package.name) });
    }
    if id.recipe.writes {
        session.make_beside(request.package, request.kernel, tree, &id.system, &source)?;
    }
    tree::snapshot(&source, &scratch.path().join("build"), &[])?;
    let own = scratch.path().join("own");
    let shown = session.readable_headers(request.kernel, tree)?;
    let mut sandbox = room(context, request.kernel, &shown, &id.facts.tools_root, own, context.jobs);
    sandbox.called = id.facts.called();
    show_writable_source(&mut sandbox, request.package, &source);
    id.system.show(&mut sandbox)?;
    show_overrides(session, &mut sandbox, request, id, &scratch.path().join("overrides"))?;
    dependencies::show(session, &mut sandbox, needed, scratch.path())?;
    warn_of_rust(session, request, tree, id);
    let lent = match how.may_launch {
        true => compiler_launcher::attach(session, &mut sandbox, request.package, &id.facts, scratch.path())?,
        false => None,
    };
    // make's own first job; it requests others through the jobserver.
    if !seat.begin(&context.services.cancel) {
        return Err(Error::Cancelled);
    }
    if context.services.groups().is_none() {
        session.detail_once("cannot create control groups here; build-memory has no effect");
    }
    context.progress().begin(&what, "building");
    let (start, started) = (Instant::now(), context.now());
    let mut opened = Opened::default();
    let outcome = build::build(build::BuildRequest {
        sandbox,
        recipe: &id.recipe,
        scratch: scratch.path(),
        environment: &ENVIRONMENT,
        limit: context.build_limit,
        cancel: &context.services.cancel,
        jobs: Some(&seat),
        opened: context.services.is_root().then_some(&mut opened),
        line: &mut |line| context.progress().line(&what, line),
    });
    context.progress().end(&what);
    if !matches!(outcome, Err(sandbox::Error::Undead)) {
        lent.into_iter().for_each(compiler_launcher::Lent::put_back);
    }
    let seconds = start.elapsed().as_secs_f64();
    let (mut left_out, mut sought, mut built_by) = (Vec::new(), Vec::new(), None);
    let result = match outcome? {
        BuildOutcome::Built { modules, debug, kept, command } => {
            built_by = command;
            let mut modules = check_modules::built(modules)?;
            let (against, needed) =
                (check_modules::Against::tree(session, request.kernel, tree)?, dependencies::exports(needed));
            left_out = check_modules::leave_out(request.kernel, &against, &mut modules, &needed)?;
            let debug = check_modules::fitting(&modules, debug)?;
            BuildResult::Outputs(Outputs { debug, modules, kept: kept.map(Content::Bytes) })
        }
        BuildOutcome::Failed(failure) => {
            let log = String::from_utf8_lossy(&build::read_log(scratch.path())?).into_owned();
            if let Some(advice) =
                out_of_reach::advice(session, request, needed, &failure.sought, &log, &source)
            {
                return Err(environment(request, format!("{} ({advice})", failure.first_error)));
            }
            sought = failure.sought;
            BuildResult::Failure(Outcome::Failed {
                status: failure.status,
                command: failure.command,
                first_error: failure.first_error,
            })
        }
        BuildOutcome::Cancelled => return Err(Error::Cancelled),
        BuildOutcome::Environment(reason, missing) => {
            let log = String::from_utf8_lossy(&build::read_log(scratch.path())?).into_owned();
            let advice = out_of_reach::advice(session, request, needed, &missing, &log, &source);
            return Err(environment(
                request,
                advice.map_or(reason.clone(), |advice| format!("{reason} ({advice})")),
            ));
        }
    };
    let observed = undeclared::digests(&id.facts, &opened, started, context.now())?;
    Ok(Product {
        result,
        left_out,
        sought,
        command: built_by,
        log: Content::Bytes(build::read_log(scratch.path())?),
        observed,
        seconds,
        _scratch: scratch,
    })
}

/// Says before it fails what a module in Rust lacks: rustc's own error is about the first library that it cannot read.
fn warn_of_rust(session: &Session, request: &Request, tree: &BuildTree, id: &Identified) {
    let rustc = id.facts.tools.iter().find(|tool| tool.role == "rustc");
    let lack = id.rust.then(|| rust::lack(tree, rustc.map(|tool| tool.version.as_str()))).flatten();
    if let Some(lack) = lack {
        session.context.progress().warn(&format!("{}: it has Rust in it, and {lack}", request.name()));
    }
}

fn environment(request: &Request, reason: String) -> Error {
    let (package, release) = (request.package.name.clone(), request.kernel.release.clone());
    Error::Environment { package, release, reason }
}

/// Shows the administrator's patches and scripts for the package, as they were hashed.
fn show_overrides(
    session: &Session,
    sandbox: &mut Sandbox,
    request: &Request,
    id: &Identified,
    copy: &Path,
) -> Result<()> {
    let inside = overrides_dir(request.package);
    let Some(wanted) = id.overrides else { return Ok(()) };
    let found = session.context.root.find(&inside).map(|dir| tree::snapshot(&dir, copy, &[])).transpose()?;
    if found != Some(wanted) {
        return Err(Error::Changed { what: inside.display().to_string() });
    }
    sandbox.read_only.push(Mount { outside: copy.to_owned(), inside });
    Ok(())
}

/// Stores the objects first, then the entry that references them.
pub(crate) fn publish(
    session: &Session,
    store: &Store,
    request: &Request,
    id: &Identified,
    made: Product,
    outcome: Outcome,
    replace: bool,
) -> Result<Entry> {
    let mut outputs = Vec::new();
    let mut put = |name: &str, role: Role, content: &Content| {
        content.pass_on(session, &mut |from| {
            let stored = store.put_object(from)?;
            let (name, role) = (name.to_owned(), role.clone());
            outputs.push(Output { name, role, size: stored.size, digest: stored.digest });
            Ok(())
        })
    };
    if let BuildResult::Outputs(made) = &made.result {
        for module in &made.modules {
            put(&module.name, Role::Module, &module.content)?;
        }
        for (name, debug) in &made.debug {
            put(name, Role::Debug, debug)?;
        }
        if let Some(kept) = &made.kept {
            put(KEPT_NAME, Role::Kept, kept)?;
        }
    }
    put(LOG_NAME, Role::Log, &made.log)?;
    outputs.sort_by(|a, b| a.name.cmp(&b.name));
    let now = session.context.now();
    let manifest = Manifest {
        format: kcache_store::FORMAT,
        key: id.key,
        labels: labels(request, id),
        fields: id.fields.clone(),
        outcome,
        outputs,
        facts: facts_of(&made),
        observed: made.observed,
        builder: session.context.builder.clone(),
        created: now,
    };
    let mut entry = Entry::new(manifest)?;
    if let Some(signer) = &session.context.services.signer {
        entry.sign(signer);
    }
    if replace {
        store.replace(&entry)?;
    } else {
        store.insert(&entry, now)?;
    }
    Ok(entry)
}

/// The facts that an entry contains about its outputs.
fn facts_of(made: &Product) -> serde_json::Map<String, serde_json::Value> {
    let mut facts = serde_json::Map::new();
    facts.insert("seconds".to_owned(), made.seconds.into());
    if !made.left_out.is_empty() {
        let left_out: Vec<String> = made.left_out.iter().map(ToString::to_string).collect();
        facts.insert("left-out".to_owned(), left_out.into());
    }
    if !made.sought.is_empty() {
        let sought: Vec<String> = made.sought.iter().map(Sought::text).collect();
        facts.insert(SOUGHT.to_owned(), sought.into());
    }
    if let Some(command) = &made.command {
        facts.insert(COMMAND.to_owned(), command.as_str().into());
    }
    facts
}

/// The command that built an entry, where the recipe had several to try.
pub fn built_by(manifest: &Manifest) -> Option<&str> {
    manifest.facts.get(COMMAND)?.as_str()
}

/// What of the system a failed build did not find, and this host has now.
pub fn found_since(manifest: &Manifest, root: &Root) -> Option<Sought> {
    let sought = manifest.facts.get(SOUGHT).and_then(|list| list.as_array()).into_iter().flatten();
    sought.filter_map(|text| Sought::parse(text.as_str()?)).find(|sought| sought.is_there(root))
}

/// What an entry is found by when its key is not known.
fn labels(request: &Request, id: &Identified) -> BTreeMap<String, String> {
    let field = |name: &str| {
        id.fields.iter().find(|field| field.name == name).map_or("", |field| field.value.as_str())
    };
    let kin = id.kin.to_string();
    let labels = Labels {
        kin: &kin,
        package: &request.package.name,
        version: &request.package.version,
        kernel: &request.kernel.release,
        kernel_version: field("kernel.version"),
        arch: field("kernel.arch"),
        source: &id.source.to_string(),
    };
    labels.stored()
}
