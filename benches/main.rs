//! What is measured, and against whom: kcache's own work as a ratio of the same work done by plain tools in the same run.
//!
//! ```text
//! cargo bench --bench kcache                       all of it, printed only
//! cargo bench --bench kcache -- [write] SUITE...   some: commands, shared, indexes, dkms, large, scale, history
//! KCACHE_BEFORE=PROGRAM cargo bench --bench kcache -- releases
//!                                                  this release beside another one, printed only
//! ```
//!
//! `write` puts them into docs/performance.md, each suite into its part of the page, and draws docs/performance/*.svg.
//!
//! Machines are shared and noisy: each pair is run alternately, several times, and the medians are compared. Needs root: `depmod`,
//! overlay mounts and the fixtures of tests/fixtures.sh.

#![allow(clippy::print_stdout, reason = "the table is this program's output")]

mod beside;
mod commands;
mod history;
mod measure;
mod page;
mod scale;
#[path = "../tests/servers.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod servers;
mod shared;

use std::path::Path;
use std::process::ExitCode;

use commands::Bench;
use measure::Table;

const SUITES: [&str; 7] = ["commands", "shared", "indexes", "dkms", "large", "scale", "history"];

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some(("walk", trees)) = arguments.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        let files: u64 = trees.iter().map(|dir| measure::walk(Path::new(dir))).sum();
        return if files > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let [word, store, tree] = &arguments[..]
        && word == "digest"
    {
        scale::digest(Path::new(store), Path::new(tree));
        return ExitCode::SUCCESS;
    }
    if arguments == ["releases"] {
        let Some(before) = std::env::var_os("KCACHE_BEFORE") else {
            println!("releases: set KCACHE_BEFORE to the program of the release before");
            return ExitCode::FAILURE;
        };
        let measured = Bench::releases(before.into(), &mut Table::default());
        return if measured.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let writes = arguments.first().is_some_and(|word| word == "write");
    if writes {
        arguments.remove(0);
    }
    if let Some(unknown) = arguments.iter().find(|word| !SUITES.contains(&word.as_str())) {
        println!("no suite {unknown}: there are {}", SUITES.join(", "));
        return ExitCode::FAILURE;
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for suite in SUITES {
        if !arguments.is_empty() && !arguments.iter().any(|word| word == suite) {
            continue;
        }
        println!("{suite}:");
        let Some(table) = measured(suite) else { return ExitCode::FAILURE };
        if writes && let Err(error) = page::write(project, suite, &table) {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measured(suite: &str) -> Option<Table> {
    let mut table = Table::default();
    match suite {
        "commands" => Bench::filled()?.all(&mut table),
        "shared" => shared::all(&Bench::find()?.modules(), &mut table),
        "indexes" => beside::indexes(&mut table),
        "dkms" => beside::dkms(&mut table),
        "large" => beside::large(&mut table),
        "history" => history::all(&mut table),
        _ => scale::all(&Bench::with_kernel()?, &mut table),
    }
    Some(table)
}
