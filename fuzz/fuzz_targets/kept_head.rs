#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| swarmpki_fuzz::kept_head(input));
