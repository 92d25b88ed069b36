#![no_main]

#[path = "../kernel.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod kernel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernel::indexes(bytes));
