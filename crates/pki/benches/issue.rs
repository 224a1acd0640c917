//! What issuing costs, beside the limit that the cryptographic library sets.
fn main() {
    divan::main();
}
