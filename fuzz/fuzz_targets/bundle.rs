#![no_main]

use std::sync::LazyLock;

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod checks;

static HOST: LazyLock<checks::Host> = LazyLock::new(checks::Host::new);

// A fuzzer does not guess checksums.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    HOST.bundle(&checks::with_checksums(bytes));
});
