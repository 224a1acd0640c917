//! Fuzz targets for every parser. `cargo +nightly fuzz run csr` drives one for as long as you like; each run of the tests drives all of them
//! for a moment.

mod targets;

pub use targets::*;
