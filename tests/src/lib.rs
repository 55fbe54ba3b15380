//! Nothing: this package exists for its integration tests, in `tests/tests/`, which span the crates.
//! What each covers stands in docs/testing.md.
