//! Skeleton.
#[cfg(feature = "sim")]
extern crate madsim_tokio as tokio;
