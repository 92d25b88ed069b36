//! `kcache status` and `kcache check`: packages x kernels, and whether each kernel has all it should have.

use comfy_table::{Table, presets};
use kcache::ensure::Wish;
use kcache::facts::Session;
use kcache::kernel::kernels::Kernel;
use kcache::select::Packages;
use kcache::status::{self, Installed, Standing, State};
use kcache::world::World;

use crate::args::Selection;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, GOOD, ODD, Out, paint};

use super::{looking, say_oddities};

/// One package's standing, kernel by kernel.
struct Row {
    name: String,
    version: String,
    /// Both, as people call it.
    called: String,
    standings: Vec<Standing>,
}

pub fn status(world: &World, out: &Out, selection: &Selection) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(world, out, selection)?;
    let (rows, installed) = survey(&session, &packages, &kernels)?;
    if out.json {
        let ready = is_ready(&rows);
        out.document(&document(&kernels, &installed, &rows, ready));
        return Ok(Exit::Done);
    }
    say_oddities(out, world, &packages, &kernels);
    if !rows.is_empty() && !kernels.is_empty() {
        out.data(&table(&kernels, &rows));
        say_reasons(out, &kernels, &rows);
    }
    Ok(Exit::Done)
}

pub fn check(world: &World, out: &Out, selection: &Selection) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(world, out, selection)?;
    let (rows, installed) = survey(&session, &packages, &kernels)?;
    super::interrupted(world)?;
    // No kernel at all, or a package that cannot even be read, is no reason to say "ready".
    let ready = is_ready(&rows) && !kernels.is_empty() && packages.broken.is_empty();
    if out.json {
        out.document(&document(&kernels, &installed, &rows, ready));
    } else {
        say_oddities(out, world, &packages, &kernels);
        for (at, kernel) in kernels.iter().enumerate() {
            verdict(out, kernel, &rows, at);
        }
    }
    Ok(if ready { Exit::Done } else { Exit::NotReady })
}

/// One kernel's verdict: a line, and below it what stands in the way.
fn verdict(out: &Out, kernel: &Kernel, rows: &[Row], at: usize) {
    let bad: Vec<&Row> = rows.iter().filter(|row| !row.standings[at].state.is_good()).collect();
    let release = &kernel.release;
    if bad.is_empty() {
        return out.data(&format!("{release}: {}", paint(GOOD, "ready")));
    }
    out.data(&format!("{release}: {}", paint(BAD, "not ready")));
    for row in bad {
        let Standing { state, reason } = &row.standings[at];
        let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        out.data(&format!("  {}  {}{reason}", row.called, painted(state)));
    }
}

fn survey(
    session: &Session,
    packages: &Packages,
    kernels: &[Kernel],
) -> Result<(Vec<Row>, Vec<Installed>), Failure> {
    let installed = kernels.iter().map(Installed::read).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for package in &packages.chosen {
        let standing = |(kernel, installed): (&Kernel, &Installed)| {
            status::standing(
                session,
                &Wish { package, kernel, all: &packages.all },
                installed,
                packages.named,
            )
        };
        let standings = kernels.iter().zip(&installed).map(standing).collect();
        let (name, version) = (package.name.clone(), package.version.clone());
        rows.push(Row { name, version, called: package.to_string(), standings });
    }
    Ok((rows, installed))
}

fn is_ready(rows: &[Row]) -> bool {
    rows.iter().flat_map(|row| &row.standings).all(|standing| standing.state.is_good())
}

fn table(kernels: &[Kernel], rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(
        std::iter::once("package".to_owned()).chain(kernels.iter().map(|kernel| kernel.release.clone())),
    );
    for row in rows {
        let states = row.standings.iter().map(|standing| standing.state.word().to_owned());
        table.add_row(std::iter::once(row.called.clone()).chain(states));
    }
    // The left padding of the first column is no use at the edge.
    let lines: Vec<String> =
        table.lines().map(|line| line.trim_end().trim_start_matches(' ').to_owned()).collect();
    lines.join("\n")
}

/// Under the table: what is not good, and why.
fn say_reasons(out: &Out, kernels: &[Kernel], rows: &[Row]) {
    for row in rows {
        for (kernel, standing) in kernels.iter().zip(&row.standings) {
            let Some(reason) = &standing.reason else { continue };
            let state = standing.state.word();
            let line = format!("{} for {}: {state}: {reason}", row.called, kernel.release);
            if standing.state.is_good() { out.detail(&line) } else { out.say(&line) }
        }
    }
}

fn painted(state: &State) -> String {
    let style = match state {
        State::Ready | State::Excluded => GOOD,
        State::Cached | State::Missing | State::Stale | State::NoHeaders => ODD,
        State::Fails | State::Broken | State::Error => BAD,
    };
    paint(style, state.word())
}

fn document(kernels: &[Kernel], installed: &[Installed], rows: &[Row], ready: bool) -> json::Status {
    let kernel = |(kernel, installed): (&Kernel, &Installed)| json::Kernel {
        release: kernel.release.clone(),
        version: kernel
            .build_tree()
            .map(|tree| tree.version.clone())
            .or_else(|| kernel.image_version.clone()),
        headers: kernel.build_tree().is_some(),
        generation: installed.generation.as_ref().map(|generation| generation.generation.clone()),
    };
    let standing = |(kernel, standing): (&Kernel, &Standing)| {
        let standing = json::Standing { state: standing.state.word(), reason: standing.reason.clone() };
        (kernel.release.clone(), standing)
    };
    let package = |row: &Row| json::Package {
        name: row.name.clone(),
        version: row.version.clone(),
        kernels: kernels.iter().zip(&row.standings).map(standing).collect(),
    };
    json::Status {
        kernels: kernels.iter().zip(installed).map(kernel).collect(),
        packages: rows.iter().map(package).collect(),
        ready,
    }
}
